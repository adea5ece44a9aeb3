"""An instance on a login node of the test cluster, its deployed code, and questions that tests ask.

All processes are real: ledger, broker, sbatch, agents, MPI ranks, runners. Only the nodes share one machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machines
import msgspec
from slurm_cluster import Cluster

from pyfi_hpc import settings as settings_module
from pyfi_hpc.adapters.slurm import AllocationRequest
from pyfi_hpc.client import deploy, session
from pyfi_hpc.client.session import Session
from pyfi_hpc.hosts import instance
from pyfi_hpc.ledger import embedded

ROOT = Path(__file__).resolve().parents[1]

#: a processor whose tasks leave a mark when they start, and take as long as they are told
_NAPS = '''
"""Tasks that take time, for tests."""

import os
import socket
import time
from pathlib import Path

import pyfi_task


def nap(marks, number, seconds, again=0.0):
    """Sleep ``seconds`` at the first attempt, ``again`` at later ones; the node, the attempt."""
    attempt = pyfi_task.current().attempt
    mark = Path(marks, f"{number}.{attempt}")
    mark.with_suffix(".new").write_text(f"{socket.gethostname()} {os.getppid()}")
    mark.with_suffix(".new").rename(mark.with_name(f"{number}-{attempt}"))
    time.sleep(seconds if attempt == 1 else again)
    return [number, socket.gethostname(), attempt]


def together(marks, seconds, comm):
    """All ranks of a gang sleep, without a look at each other; their nodes, and the attempt."""
    nodes = comm.allgather(socket.gethostname())
    attempt = pyfi_task.current().attempt
    Path(marks, f"{comm.Get_rank()}-{attempt}").write_text(f"{socket.gethostname()} {os.getppid()}")
    time.sleep(seconds if attempt == 1 else 0.1)
    comm.Barrier()
    return [nodes, attempt]
'''


class Site:
    """A person on the cluster's login node, with an instance of their own.

    Attributes
    ----------
    settings : Settings
        ``home`` lies in the folder that all nodes see.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        home = cluster.shared / "home"
        self.settings = settings_module.load(instance=name, home=home, scratch=cluster.shared / "scratch")
        self._session: Session | None = None

    # --- the instance ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """For commands of this person."""
        named = {"PYFI_HOME": str(self.settings.home), "PYFI_INSTANCE": self.settings.instance}
        return named | {"PYFI_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(self.settings)
        return self._session

    def ask(self, verb: str, body: dict[str, Any] | None = None, **more: Any) -> Any:
        return self.session.ask(verb, (body or {}) | more, timeout=20, repeat=True)

    def deploy(self, folder: Path) -> None:
        spec = deploy.prepare(self.settings, folder, allow_dirty=True)
        self.ask("deploy", msgspec.to_builtins(spec))

    def deploy_naps(self) -> None:
        folder = self.cluster.shared / "naps"
        if not folder.exists():
            folder.mkdir()
            (folder / "naps.py").write_text(_NAPS)
            subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20)
        self.deploy(folder)

    def deploy_trouble(self) -> None:
        """The functions that the loads of tests/chaos call."""
        folder = self.cluster.shared / "trouble"
        if not folder.exists():
            folder.mkdir()
            shutil.copy(ROOT / "tests" / "trouble" / "trouble.py", folder)
            subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20)
        self.deploy(folder)

    def pid(self, name: str) -> int:
        """Of the live daemon on this machine whose name begins so."""
        found = instance.find(self.settings, name)
        assert found is not None, f"no {name} runs"
        return found.pid

    def processes(self) -> dict[int, str]:
        """What runs of the instance here and on the nodes, as this machine numbers it: its words."""
        found = {pid: line for lines in our_processes(self.cluster).values() for pid, line in lines.items()}
        daemon = instance.find(self.settings, "broker")
        return found if daemon is None else {daemon.pid: "broker", **found}

    def down(self) -> list[str]:
        """What ``pyfi down`` does."""
        stopped = instance.stop(self.settings, lambda: self.session.ask("shutdown", {}, timeout=8.0))
        self.close()
        return stopped

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        session.close_all()

    def remove(self) -> None:
        """Forget everything of the instance; its code and environments stay for the next test."""
        embedded.remove(self.settings)
        shutil.rmtree(self.settings.instance_dir, ignore_errors=True)

    # --- allocations -------------------------------------------------------------------------------

    def up(self, **wanted: Any) -> int:
        """What ``pyfi up --slurm`` does; Slurm's job id."""
        wanted.setdefault("output", str(self.cluster.shared / "pyfi-%j.out"))
        answer = instance.start_allocation(self.settings, AllocationRequest(**{"time": "5"} | wanted))
        assert answer.slurm_job_id is not None
        return answer.slurm_job_id

    def by_hand(self, script: str, *options: str) -> int:
        """What a person types: ``sbatch OPTIONS slurm/SCRIPT``."""
        command = ["sbatch", "--parsable", *options, str(ROOT / "slurm" / script)]
        return int(self.cluster.run(command, 20, env=self.environment).stdout)

    def said(self, job: int) -> str:
        """The output of an allocation, and the agents' logs: for the message of a failed test."""
        out = self.cluster.shared / f"pyfi-{job}.out"
        texts = [out.read_text() if out.exists() else "(no output)"]
        for file in sorted(self.settings.log_dir.glob("*.log")):
            texts.append(f"--- {file.name}\n{file.read_text()[-3000:]}")
        return "\n".join(texts)

    def nodes(self) -> list[dict[str, Any]]:
        """Live nodes as the broker knows them."""
        found: list[dict[str, Any]] = self.ask("info")["broker"]["nodes"]
        return found

    def wait_ranks(self, count: int, job: int, timeout: float = 60) -> None:
        """Wait until so many ranks of an allocation have joined."""

        def joined() -> bool:
            return sum(n["ranks"] for n in self.nodes() if n["allocation"] == str(job)) >= count

        wait(joined, timeout, lambda: f"{self.nodes()}\n{self.said(job)}")

    # --- tasks -------------------------------------------------------------------------------------

    def marks(self, name: str) -> Path:
        """A fresh folder for the marks of naps."""
        folder = self.cluster.shared / f"marks-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def cancel_all(self) -> None:
        """End what a failed test left."""
        for row in self.ask("jobs", {"unfinished": True})["rows"]:
            self.session.cancel(row["job"])

    def last_job(self) -> int:
        """The newest job's id."""
        return int(self.ask("jobs")["rows"][0]["job"])

    def calls(self, job: int) -> list[dict[str, Any]]:
        """All tasks of a job, by index."""
        rows: list[dict[str, Any]] = []
        while True:
            page = self.ask("calls", {"job": job, "limit": 1000, "offset": len(rows)})
            rows += page["rows"]
            if not page["rows"] or len(rows) >= page["total"]:
                return sorted(rows, key=lambda row: int(row["index"]))

    def attempts(self, job: int, index: int) -> list[dict[str, Any]]:
        """All attempts of a task, in order."""
        found: list[dict[str, Any]] = self.ask("call", {"id": f"{job}.{index}"})["attempts"]
        return found


def wait(condition: Callable[[], bool], timeout: float, why: Callable[[], str] | str = "") -> None:
    """Wait until the condition holds; an AssertionError says why it matters."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {why if isinstance(why, str) else why()}"
        time.sleep(0.05)


def node_ranks(cluster: Cluster, node: str) -> list[int]:
    """Rank processes on a node, as this machine numbers them, without the srun that started them."""
    pids = cluster.node_pids(node, "pyfi_hpc.hosts.rank")
    return [pid for pid in pids if "srun" not in _comm(pid)]


def inside_pid(pid: int) -> int:
    """The number of a process in its own node."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("NSpid:")[2].split("\n")[0].split()[-1])


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return "srun"


def ours(cluster: Cluster) -> dict[str, list[str]]:
    """Command lines of our processes that live on the nodes."""
    return {node: list(lines.values()) for node, lines in our_processes(cluster).items()}


def our_processes(cluster: Cluster) -> dict[str, dict[int, str]]:
    """Our processes on each node that has some: pid, as this machine numbers it, and command line."""
    found: dict[str, dict[int, str]] = {}
    for node in cluster.nodes:
        for pid in cluster.node_pids(node):
            line = machines.command_line(pid)
            if "pyfi_hpc" in line or "runner/child.py" in line or "postgres" in line:
                found.setdefault(node, {})[pid] = line
    return found
