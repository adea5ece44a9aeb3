"""What surrounds a runner: the environment it inherits, what it leaves behind, the memory limit it hits."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pyfi_hpc.settings import Settings

_MARK = "PYFI_RUNNER"
#: names the step that a process is of; and whose steps they are: another instance of the same user counts as we do
_STEP, STEPS = "PYFI_STEP", "PYFI_STEPS"
_PR_SET_CHILD_SUBREAPER = 36

#: a rank has one core: libraries that start a thread per core of the node would fight over it
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
#: glibc gives freed memory back to the kernel until it has learned how much of it comes and goes, and a task's array
#: then costs a fault for each of its pages; these are the limits to which it lets itself be taught, bytes
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
#: the rank's own place in its MPI world: a function that starts MPI itself is a world of its own
_MPI_PREFIXES = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_CVAR_CH4_")
#: the last three are for programs that functions start on several ranks: see runner/step.py
_OURS_KEPT = {"PYFI_HOME", "PYFI_INSTANCE", "PYFI_MPIEXEC", "PYFI_SLURM_MPI", "PYFI_STEPS"}
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
    for name, size in _ALLOCATOR.items():
        env.setdefault(name, size)
    folder = os.path.dirname(python)
    env["PATH"] = folder + os.pathsep + env.get("PATH", os.defpath)
    env[_MARK] = mark
    env["VIRTUAL_ENV"] = os.path.dirname(folder)
    return env


def added_environment(mark: str) -> dict[str, str]:
    """What a copy of the rank that runs functions gets, as runners do; its launcher's words stay."""
    return {_MARK: mark} | {
        name: value for name, value in (*((name, "1") for name in _THREADS), *_ALLOCATOR.items())
        if name not in os.environ
    }  # fmt: skip


def widen(pid: int, cores: Collection[int]) -> None:
    """Let a process that has just been started use these cores, and all that it starts; none: leave it as it is."""
    if cores:
        with suppress(OSError):  # it has ended already, or the cores are not ours any more
            os.sched_setaffinity(pid, cores)


class Orphans:
    """Processes that a function started and left: they become ours, not init's, in whatever session."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._own = _children()  # what was here before any function
        self._next = 0.0

    def reap(self, now: float, runners: set[int]) -> None:
        """Once a second: let those that ended go, or the node runs out of process ids."""
        if now < self._next:
            return
        self._next = now + 1.0
        for pid in _children() - self._own - runners:
            _wait(pid, os.WNOHANG)

    def end(self, mark: str, runners: set[int], had_step: bool = False) -> None:
        """Kill what the runner with this mark has left; ``runners`` are the other ones alive.

        Processes of a step are not ours before their launcher has ended, which may be later than we do.
        """
        if had_step:
            _kill_where(f"{_MARK}={mark}")
        for _ in range(100):  # what dies may leave children of its own to us
            left = [pid for pid in _children() - self._own - runners if _has_mark(pid, mark, bool(runners))]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                _wait(pid, 0)


class Leftovers:
    """For an agent: what its ranks would have ended, had they not been killed themselves.

    A runner dies with its rank, but not what functions have started. It becomes ours, because we are above the
    ranks; under Slurm we are not, and there the step's end ends it.
    """

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def end(self, own: set[int], at_close: bool = False) -> None:
        """Kill what came to us from ranks that are dead, or at our close from any; ``own`` children are not touched."""
        for pid in _children() - own:
            rank = _marked_by(pid)
            if at_close or (rank and not os.path.exists(f"/proc/{rank}")):
                try:
                    os.kill(pid, signal.SIGKILL)
                    _wait(pid, 0)
                except ProcessLookupError:
                    pass
            else:
                _wait(pid, os.WNOHANG)


def whose_steps(settings: Settings) -> str:
    """The value of STEPS: the same on all nodes of an instance."""
    return f"{settings.instance}@{settings.home}"


def end_step(whose: str, token: str) -> int:
    """Kill what is left on this node of a step; how many processes that were. Cost: a look at each of ours here."""
    return _kill_where(f"{_STEP}={whose}/{token}")


def _kill_where(variable: str) -> int:
    """Kill who has this in his environment; how many they were."""
    ended = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if variable.encode() in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    ended += 1
    return ended


def _marked_by(pid: int) -> str:
    """The rank whose runner started this process; "" where that is not known, as of one that has just died."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    start = _MARK.encode() + b"="
    return next((v.removeprefix(start).decode().partition("-")[0] for v in variables if v.startswith(start)), "")


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
    """Of the main thread: it starts them all, and the kernel gives it those of others."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb", buffering=0) as file:
            return set(map(int, file.read().split()))
    except OSError:
        return set()  # a kernel without this file


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
