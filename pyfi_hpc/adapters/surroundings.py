<<<<<<< HEAD
"""What surrounds an agent on its node: the rank step, processes to watch, code to check, load to sample.

A Doer for the agent's actions and a Port for what comes of them. One epoll descriptor stands for all.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pyfi_hpc.adapters import launcher
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.effects import (
    Action,
    CheckCode,
    KillProcess,
    ReplaceRank,
    Sample,
    StartRanks,
    WatchProcess,
)
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Sampled

log = logging.getLogger("pyfi_hpc.agent")


class Surroundings:
    """Carries out the agent's actions.

    Parameters
    ----------
    rank_command : list of str
        Starts one rank; ``--replace N --core C`` is added for a replacement.
    rank_log : file
        Where ranks' own standard output and error go; not those of tasks.
    """

    def __init__(self, rank_command: list[str], rank_log: IO[bytes]) -> None:
        self._rank_command = rank_command
        self._rank_log = rank_log
        self._epoll = select.epoll()
        self._nudge = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._nudge, select.EPOLLIN)
        self.waitable = self._epoll.fileno()
        self._events: list[Any] = []
        #: pidfd -> pid
        self._watched: dict[int, int] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def do(self, action: Action) -> None:
        _DO[type(action)](self, action)

    def receive(self) -> list[Any]:
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._nudge:
                os.eventfd_read(self._nudge)
            else:
                self._gone(descriptor)
        events, self._events = self._events, []
        return events

    def _gone(self, descriptor: int) -> None:
        pid = self._watched.pop(descriptor)
        self._epoll.unregister(descriptor)
        os.close(descriptor)
        child = self._children.pop(pid, None)
        how = "it is gone"
        if child is not None:
            code = child.wait()
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        log.info("= process %d ended: %s", pid, how)
        self._events.append(ProcessExited(pid, how))

    def _start_ranks(self, action: StartRanks) -> None:
        try:
            command = launcher.step_command(launcher.find_mpiexec(), action.count, self._rank_command)
            self._adopt(launcher.start(command, self._rank_log))
        except (PyfiError, OSError, subprocess.SubprocessError) as error:
            log.error("cannot start the ranks: %s", error)
            self._tell(ProcessExited(0, str(error)))

    def _replace_rank(self, action: ReplaceRank) -> None:
        command = [*self._rank_command, "--replace", str(action.rank), "--core", str(action.core)]
        log.warning("= rank %d is replaced", action.rank)
        self._adopt(launcher.start(command, self._rank_log))

    def _adopt(self, child: subprocess.Popen[bytes]) -> None:
        self._children[child.pid] = child
        self._watch(child.pid)

    def _watch_process(self, action: WatchProcess) -> None:
        if action.pid not in self._watched.values():
            self._watch(action.pid)

    def _watch(self, pid: int) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._tell(ProcessExited(pid, "it was gone already"))
            return
        self._watched[descriptor] = pid
        self._epoll.register(descriptor, select.EPOLLIN)

    def _kill(self, action: KillProcess) -> None:
        """Only what is watched: a pid that was used again by somebody else is not ours to end."""
        for descriptor, pid in self._watched.items():
            if pid == action.pid:
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL if action.hard else signal.SIGTERM)
                except ProcessLookupError:
                    pass

    def _check_code(self, action: CheckCode) -> None:
        problem = ""
        if not os.access(action.python, os.X_OK):
            problem = f"the environment {action.environment} is not on this node: {action.python}"
        elif not Path(action.workdir).is_dir():
            problem = f"the code {action.repository} @ {action.commit[:12]} is not on this node: {action.workdir}"
        self._tell(CodeChecked(action.code, problem))

    def _sample(self, action: Sample) -> None:
        self._tell(Sampled(os.getloadavg()[0], _memory_used()))

    def _tell(self, event: Any) -> None:
        self._events.append(event)
        os.eventfd_write(self._nudge, 1)

    def close(self, patience_s: float = 2.0) -> None:
        """End the children that are left: the launcher ends by itself once its ranks have."""
        for child in self._children.values():
            try:
                child.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _memory_used() -> int:
    """Bytes of memory in use on this node."""
    values = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines()[:3])
    return 1024 * (int(values["MemTotal"].split()[0]) - int(values["MemAvailable"].split()[0]))


_DO: dict[type, Callable[[Surroundings, Any], None]] = {
    StartRanks: Surroundings._start_ranks,
    ReplaceRank: Surroundings._replace_rank,
    KillProcess: Surroundings._kill,
    CheckCode: Surroundings._check_code,
    WatchProcess: Surroundings._watch_process,
    Sample: Surroundings._sample,
}
=======
"""What surrounds a runner: the environment it inherits, the processes it leaves behind, the memory limit it hits."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_MARK = "PYFI_RUNNER"
_PR_SET_CHILD_SUBREAPER = 36

#: a rank has one core: libraries that start a thread per core of the node would fight over it
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
#: the rank's own place in its MPI world: a function that starts MPI itself is a world of its own
_MPI_PREFIXES = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_CVAR_CH4_")
_OURS_KEPT = {"PYFI_HOME", "PYFI_INSTANCE"}
_PYTHON = {"PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"}


def runner_environment(python: str, mark: str) -> dict[str, str]:
    """The environment of the rank, less what is the rank's own, with the virtual environment active.

    ``mark`` tells whose everything is that the runner starts, see ``Orphans``.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_MPI_PREFIXES)
        and name not in _PYTHON
        # PYFI_LEDGER may hold a password
        and (not name.startswith("PYFI_") or name in _OURS_KEPT)
    }
    for name in _THREADS:
        env.setdefault(name, "1")
    folder = os.path.dirname(python)
    env["PATH"] = folder + os.pathsep + env.get("PATH", os.defpath)
    env[_MARK] = mark
    env["VIRTUAL_ENV"] = os.path.dirname(folder)
    return env


class Orphans:
    """Processes that a function started and left: they become ours, not init's, whatever session they are in."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._next = 0.0

    def reap(self, now: float, runners: set[int]) -> None:
        """Once a second: let those that ended go, or the node runs out of process ids."""
        if now < self._next:
            return
        self._next = now + 1.0
        for pid in _children() - runners:
            _wait(pid, os.WNOHANG)

    def end(self, mark: str, runners: set[int]) -> None:
        """Kill what the runner with this mark has left; ``runners`` are the other ones alive."""
        for _ in range(100):  # what dies may leave children of its own to us
            left = [pid for pid in _children() - runners if _has_mark(pid, mark, bool(runners))]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                _wait(pid, 0)


def _has_mark(pid: int, mark: str, are_others: bool) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        variables = []
    own = [v for v in variables if v.startswith(_MARK.encode() + b"=")]
    # without a mark (a zombie, or an environment made empty) it is whoever's; with one runner only that one's
    return own == [f"{_MARK}={mark}".encode()] if own else not are_others


def _wait(pid: int, flags: int) -> None:
    try:
        os.waitpid(pid, flags)
    except ChildProcessError:
        pass


def _children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except OSError:
            pass  # a thread that has just ended, or a kernel without this file
    return found


class MemoryKills:
    """Counts the kernel's out-of-memory kills in this process's control group."""

    def __init__(self) -> None:
        self._file = _memory_events()
        self._count = self._read()

    def happened(self) -> bool:
        """Whether there was one since the last question."""
        before, self._count = self._count, self._read()
        return self._count > before

    def _read(self) -> int:
        if self._file is None:
            return 0
        try:
            words = self._file.read_text().split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError):
            return 0


def _memory_events() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            file = Path("/sys/fs/cgroup" + path) / "memory.events"
        elif "memory" in controllers.split(","):
            file = Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control"
        else:
            continue
        if file.exists():
            return file
    return None
>>>>>>> runner
