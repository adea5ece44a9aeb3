"""Stand-ins for PBS's commands: a queue in a folder, and jobs that really run, on this machine.

    python pbs_stand_in.py qsub|qstat|qselect|qdel|pbs_tmrsh FOLDER OPTIONS...

`install` puts them into a folder for PATH. They know what OpenPBS documents of the options that we use, and nothing
more: an option that they do not know is an error. A job gets a hostfile with this machine, and further names for
further chunks, which ``pbs_tmrsh`` reaches by starting the command here under that name. There is no walltime.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SERVER = "stand-in"
COMMANDS = ("qsub", "qstat", "qselect", "qdel", "pbs_tmrsh")


def install(folder: Path, slots: int = 4) -> Path:
    """Commands of a PBS with room for so many jobs at once; the folder that belongs on PATH."""
    (folder / "bin").mkdir(parents=True)
    (folder / "slots").write_text(str(slots))
    (folder / "calls").write_text("")
    for name in COMMANDS:
        file = folder / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} {folder} "$@"\n')
        file.chmod(0o755)
    return folder / "bin"


class Queue:
    """The jobs of a folder; used under its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "jobs.json"
        self.jobs: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def look(self) -> None:
        """What has ended, and what may begin."""
        for number, job in self.jobs.items():
            code = self.folder / f"{number}.exit"
            if job["state"] == "R" and code.exists() and code.read_text().strip():
                job["state"], job["code"] = "F", int(code.read_text())
        slots = int((self.folder / "slots").read_text())
        for number, job in self.jobs.items():
            if job["state"] == "Q" and sum(other["state"] == "R" for other in self.jobs.values()) < slots:
                self._begin(number, job)
        self.keep()

    def keep(self) -> None:
        """Written beside, then renamed: who reads without the lock sees the old or the new one."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(self.jobs))
        fresh.rename(self.file)

    def _begin(self, number: str, job: dict[str, Any]) -> None:
        hosts = [socket.gethostname(), *(f"chunk{k}" for k in range(1, job["chunks"]))]
        nodefile = self.folder / f"{number}.nodes"
        nodefile.write_text("".join(f"{host}\n" * job["mpiprocs"] for host in hosts))
        script = self.folder / f"{number}.sh"
        env = {**os.environ, **job["variables"], "PBS_JOBID": f"{number}.{SERVER}", "PBS_NODEFILE": str(nodefile)}
        env |= {"PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBCOOKIE": "1"}
        line = f"bash {shlex.quote(str(script))}; echo $? > {shlex.quote(str(self.folder / (number + '.exit')))}"
        with open(job["output"], "wb") as out:
            process = subprocess.Popen(
                ["setsid", "sh", "-c", line], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
        job.update(state="R", pid=process.pid, began=time.time(), hosts=hosts)


def qsub(queue: Queue, words: list[str]) -> int:
    assert not words, f"qsub: unknown option {words}"
    text = sys.stdin.read()
    number = str(len(queue.jobs) + 1)
    job: dict[str, Any] = {"state": "Q", "variables": {}, "name": "STDIN", "walltime": "", "output": "", "code": None}
    for line in re.findall(r"^#PBS (.*)$", text, re.M):
        option, value = shlex.split(line)[0], shlex.split(line)[1]
        if option == "-N":
            job["name"] = value
        elif option == "-v":
            job["variables"] |= dict(pair.split("=", 1) for pair in value.split(","))
        elif option == "-o":
            assert value.endswith("/"), "the stand-in knows folders only"
            job["output"] = f"{value}{number}.{SERVER}.OU"
        elif option == "-q" and value != "workq":
            print("qsub: Unknown queue", file=sys.stderr)
            return 170
        elif option == "-l" and value.startswith("select="):
            chunks, *resources = value.removeprefix("select=").split(":")
            job["chunks"] = int(chunks)
            job["mpiprocs"] = int(dict(r.split("=") for r in resources)["mpiprocs"])
        elif option == "-l" and value.startswith("walltime="):
            job["walltime"] = value.removeprefix("walltime=")
        elif (option, value) not in (("-j", "oe"), ("-q", "workq"), ("-l", "place=scatter")):
            print(f"qsub: illegal option {line}", file=sys.stderr)
            return 2
    (queue.folder / f"{number}.sh").write_text(text)
    queue.jobs[number] = job
    queue.look()
    print(f"{number}.{SERVER}")
    return 0


def qselect(queue: Queue, words: list[str]) -> int:
    assert words[0] == "-u" and len(words) == 2
    for number, job in queue.jobs.items():
        if job["state"] != "F":
            print(f"{number}.{SERVER}")
    return 0


def qstat(queue: Queue, words: list[str]) -> int:
    history = "-x" in words
    names = [word.partition(".")[0] for word in words if word not in ("-x", "-f")]
    assert "-f" in words
    code = 0
    for number in names:
        job = queue.jobs.get(number)
        if job is None or (job["state"] == "F" and not history):
            finished = "Job has finished, use -x to see it" if job else "Unknown Job Id"
            print(f"qstat: {finished} {number}.{SERVER}", file=sys.stderr)
            code = 153
            continue
        variables = ",".join(f"{name}={value}" for name, value in {"PBS_O_HOME": "/home/x", **job["variables"]}.items())
        fields = {"Job_Name": job["name"], "job_state": job["state"], "Resource_List.walltime": job["walltime"],
                  "Variable_List": variables}  # fmt: skip
        if job["state"] == "Q":
            fields["comment"] = "Not Running: Insufficient amount of resource: ncpus"
        else:
            fields["exec_host"] = "+".join(f"{host}/0*{job['mpiprocs']}" for host in job["hosts"])
            fields["resources_used.walltime"] = time.strftime("%H:%M:%S", time.gmtime(time.time() - job["began"]))
        if job["state"] == "F":
            fields["Exit_status"] = str(job["code"])
        print(f"Job Id: {number}.{SERVER}")
        for name, value in fields.items():
            # as PBS folds long lines
            text = f"    {name} = {value}"
            print("\n\t".join([text[:78], *(text[k : k + 70] for k in range(78, len(text), 70))]))
        print()
    return code


def qdel(queue: Queue, words: list[str]) -> int:
    (number,) = (word.partition(".")[0] for word in words)
    job = queue.jobs.get(number)
    if job is None or job["state"] == "F":
        print(f"qdel: Job has finished {number}.{SERVER}", file=sys.stderr)
        return 35
    if job["state"] == "R":
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(job["pid"], kind)
            except ProcessLookupError:
                break
            time.sleep(1.0)
    job["state"], job["code"] = "F", 271
    queue.look()
    return 0


def pbs_tmrsh(_queue: Queue, words: list[str]) -> int:
    host, *command = words
    os.execvpe(command[0], command, {**os.environ, "SLURMD_NODENAME": host})
    return 1


def main() -> int:
    name, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if name == "pbs_tmrsh":
        return pbs_tmrsh(Queue(folder), words)
    with open(folder / "lock", "w") as lock, open(folder / "calls", "a") as calls:
        fcntl.flock(lock, fcntl.LOCK_EX)
        calls.write(f"{time.time()} {name} {' '.join(words)}\n")
        queue = Queue(folder)
        queue.look()
        code: int = {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel}[name](queue, words)
        queue.keep()
        return code


if __name__ == "__main__":
    sys.exit(main())
