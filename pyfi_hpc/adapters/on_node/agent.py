"""The agent on a host that was added over ssh: its home, its code, its start, its end, and what is removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from typing import IO, Any

from pyfi_hpc.adapters.on_node.frame import Problem, private, proc, processes, wait, write
from pyfi_hpc.adapters.on_node.install import MARKER, find_uv, install, look

_KILLED_S = 5.0
_LINES = 4


def place(_: IO[bytes], home: str, instance: str, access: dict[str, Any]) -> dict[str, Any]:
    """The folder of an instance, with the keys of its agents: nobody else may read them."""
    private(home)
    write(os.path.join(private(os.path.join(home, instance)), "access.json"), access)
    return {}


def codes(_: IO[bytes], home: str, instance: str) -> dict[str, Any]:
    """Which codes were sent before: their numbers."""
    folder = os.path.join(home, instance, "code")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {"codes": [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]}


def code(stdin: IO[bytes], home: str, instance: str, number: int, about: dict[str, str]) -> dict[str, Any]:
    """The files of one deployed code, as a tar archive; the note of it is written last."""
    cache = os.path.join(home, "cache", "code")
    for folder in (home, os.path.dirname(cache), cache, os.path.join(home, instance, "code")):
        private(folder)
    target = os.path.join(cache, about["tree"])
    if not os.path.isdir(target):
        fresh = os.path.join(cache, f".sent-{os.getpid()}")
        os.mkdir(fresh, 0o700)
        try:
            # what the instance has deployed: links and modes are as they were committed
            known: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            with tarfile.open(fileobj=stdin, mode="r|") as archive:
                archive.extractall(fresh, **known)
            with contextlib.suppress(FileExistsError):
                os.rename(fresh, target)
        except tarfile.TarError as error:
            raise Problem(f"the files did not arrive whole: {error}", target, "try again") from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    write(os.path.join(home, instance, "code", f"{number}.json"), about)
    return {}


def start(
    _: IO[bytes], python: str, home: str, instance: str, ranks: int, own: bool, variables: dict[str, str]
) -> dict[str, Any]:
    """Start the agent so that it outlives this connection; refused where one of the instance runs already.

    ``variables`` are settings of this node alone, as the environment has them.
    """
    running = _agent(home, instance)
    if running:
        raise Problem(
            f"an agent of instance {instance!r} runs on {socket.gethostname()} already, pid {running}", home,
            "`pyfi node rm` ends it", True,
        )  # fmt: skip
    log = os.path.join(private(os.path.join(home, instance, "logs")), f"agent-{_name()}.out")
    command = [python, "-m", "pyfi_hpc.hosts.agent", "--instance", instance, "--home", home, "--ranks", str(ranks)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SSH_", "PYTHON"))}
    # what starts processes of its own is found by these when the node is removed
    environment.update(variables, PYFI_HOME=home, PYFI_INSTANCE=instance, PYFI_OVER_SSH="1")
    if uv := find_uv():  # what installed us builds environments too; ssh gives a shorter PATH than a login
        environment["PATH"] = environment.get("PATH", os.defpath) + os.pathsep + os.path.dirname(uv)
    with open(log, "ab") as out:
        child = subprocess.Popen(
            command + (["--own-code"] if own else []), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, cwd="/", env=environment,
        )  # fmt: skip
    return {"pid": child.pid, "log": log}


def alive(_: IO[bytes], pid: int, log: str) -> dict[str, Any]:
    """Whether the agent runs, and the last lines of its logs and of that of its ranks."""
    lines = []
    folder = os.path.dirname(log)
    for name in (f"agent-{_name()}.out", f"agent-{_name()}.log", f"ranks-{_name()}.log"):
        with contextlib.suppress(OSError), open(os.path.join(folder, name), errors="replace") as text:
            lines += [f"{name}: {line.rstrip()}" for line in text.readlines()[-_LINES:]]
    return {"alive": _lives(pid), "lines": lines}


def stop(_: IO[bytes], home: str, instance: str, own: bool, drain_s: float, end_s: float) -> dict[str, Any]:
    """End the agent of an instance and everything of it here: first what runs may end, then it is told, then killed."""
    pid = _agent(home, instance)
    if pid and drain_s > 0:
        _tell(pid, signal.SIGUSR1)
        wait(lambda: not _lives(pid), drain_s)
    if pid and _lives(pid):
        _tell(pid, signal.SIGTERM)
    wait(lambda: not _ours(home, instance, own), end_s)
    killed = _ours(home, instance, own)
    for other in killed:
        _tell(other, signal.SIGKILL)
    wait(lambda: not _ours(home, instance, own), _KILLED_S)
    if left := _ours(home, instance, own):
        raise Problem(f"processes {left} do not end", socket.gethostname(), "look at them there")
    return {"found": bool(pid), "killed": len(killed)}


def remove(
    _: IO[bytes], home: str, instance: str, own: bool, base: str, venv: str, purge: bool
) -> dict[str, Any]:
    """What was put here: keys and logs; with ``purge`` code and environments too, and ours unless others need it."""
    if own:
        _take_away(home if purge else os.path.join(home, instance))
    kept = _remove_venv(base, venv) if purge and venv else ""
    for folder in ("nodes", "venvs", ""):
        with contextlib.suppress(OSError):  # others are there, or it is not there
            if folder == "venvs":
                _remove_locks(os.path.join(base, folder))
            os.rmdir(os.path.join(base, folder))
    return {"kept": kept}


def _remove_venv(base: str, venv: str) -> str:
    folder = os.path.join(base, "venvs", venv)
    users = [pid for pid, words in processes() if folder + "/" in words]
    if users:
        return f"{folder}, which process {users[0]} uses"
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, MARKER))
    _take_away(folder)
    return ""


def _take_away(folder: str) -> None:
    if os.path.isdir(folder):
        shutil.rmtree(folder)


def _remove_locks(folder: str) -> None:
    """When no environment is left."""
    names = os.listdir(folder)
    if all(name.endswith(".lock") for name in names):
        for name in names:
            os.unlink(os.path.join(folder, name))


def _name() -> str:
    return socket.gethostname().partition(".")[0]


def _agent(home: str, instance: str) -> int:
    """The pid of the agent of that home on this host, or 0."""
    words = f" -m pyfi_hpc.hosts.agent --instance {instance} --home {home} "
    return next((pid for pid, line in processes() if words in line + " "), 0)


def _ours(home: str, instance: str, own: bool) -> list[int]:
    """Every process of that instance here: agent, launcher, ranks, and what carries it in its environment.

    With a home of its own also what works in there, such as an installer.
    """
    words = f"--instance {instance} --home {home} "
    variables = {f"PYFI_HOME={home}".encode(), f"PYFI_INSTANCE={instance}".encode(), b"PYFI_OVER_SSH=1"}
    found = []
    for pid, line in processes():
        mine = ("pyfi_hpc.hosts" in line and words in line + " ") or (own and home + "/" in line)
        with contextlib.suppress(OSError):
            mine = mine or variables <= set(proc(pid, "environ").split(b"\0"))
        if mine:
            found.append(pid)
    return found


def _lives(pid: int) -> bool:
    try:
        return proc(pid, "stat").rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def _tell(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


STEPS = {
    "look": look, "install": install, "place": place, "codes": codes, "code": code, "start": start,
    "alive": alive, "stop": stop, "remove": remove,
}  # fmt: skip
