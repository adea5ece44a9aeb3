"""The MPI process beside a rank: runs functions together with those of other ranks, over a communicator of their own.

The rank forks it first of all, and it is in the place of the rank in its MPI world. To the rank it is a runner like
any other (runner/child.py), with three differences: it runs in our own Python, takes the code of each task from the
task's own environment, and cannot be started again: who leaves an MPI world cannot come back. So a function that hangs
or crashes takes this process along and nothing else.

It says first ``place number size local_number local_size world problem``, then what runners say. A run has one more
element: ``python workdir module roster variables cores``.
"""

from __future__ import annotations

import glob
import importlib
import os
import sys
from collections.abc import Callable
from functools import cache
from time import perf_counter, time
from typing import Any

from pyfi_hpc.adapters import mpi
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.runner import child

_ENVIRONMENT = 9  # as in model.states.Cause
#: packages of ours that stay loaded
_KEPT = {"pyfi_hpc", "_pyfi_runner", "msgspec", "mpi4py"}
#: after a function MPI goes on so often, for so long, seconds
_MOVE_S, _MOVES_S = 0.002, 2.0
#: contexts are told apart by their tag while they are made
_TAGS = 1 << 15


def serve(read_fd: int, write_fd: int, board_fd: int, parent: int, limits: Limits, limit_s: float) -> None:
    """Start MPI, tell the place, run what comes; MPI has so long to start."""
    child.ends_with(parent)
    inbox, outbox = child.pipe_ends(read_fd, write_fd)
    place = mpi.join(limit_s)
    world_id = mpi.world_id(place)
    outbox.put(["place", place.rank, place.size, place.local_rank, place.local_size, world_id, place.problem])
    if place.world is None:
        return
    payload = child.load("payload")
    outputs = child.output_files(limits.output_bytes_max)
    current = child.Current()
    current.step.in_gang = True
    child.add_task_module(current)
    outbox.put(["ready", os.getpid(), sys.version.split()[0], time()])
    answers = child.answering.Answers(board_fd, outbox)
    Member(place.world, payload, current, inbox, answers, outputs, limits.payload_bytes_max).serve()
    # not by a return: MPI_Finalize waits for all other ranks
    sys.stdout.flush()
    os._exit(0)


class Member(child.Runner):
    """Runs tasks as one of several."""

    def __init__(self, world: Any, payload: Any, *rest: Any) -> None:
        super().__init__(None, payload, *rest)  # type: ignore[arg-type]
        self._world = world
        self._mount = Mount()
        self._gang: list[Any] = []
        self._moves_until = 0.0

    def _take(self, block: bool) -> None:
        """MPI moves only while somebody calls it: what a function sent last may still be on its way to another node."""
        while block and perf_counter() < self._moves_until and not self._inbox.waits(_MOVE_S):
            mpi.move(self._world)
        super()._take(block)

    def _run(self, frame: list[Any]) -> None:
        self._gang = frame[13]
        cores = os.sched_getaffinity(0)
        try:
            super()._run(frame)
        finally:
            os.sched_setaffinity(0, cores)
            self._moves_until = perf_counter() + _MOVES_S

    def _call(self, find: Callable[[Any], Any], data: bytes, inputs: Any, state: bytes) -> tuple[int, bytes]:
        python, workdir, module, roster, variables, cores = self._gang
        try:
            os.environ.update(dict(variables))
            if cores:
                os.sched_setaffinity(0, cores)
            self._code = self._mount.take(python, workdir, module)
        except BaseException as error:  # also a module that calls sys.exit
            return _ENVIRONMENT, self._payload.encode_error(error, skip=1)
        try:
            comm = mpi.among(self._world, roster, self._tag())
        except BaseException as error:
            return child.ERROR, self._payload.encode_error(error, skip=1)
        self._more = {"comm": comm}
        cause, result = super()._call(find, data, inputs, state)
        if cause in (child.RETURNED, child.CONTINUED):
            if comm.Get_rank():
                # the leader's counts, and so does its state
                cause, result = child.RETURNED, self._payload.encode_value(None)
            comm.Free()
        return cause, result


    def _tag(self) -> int:
        """The same for all ranks of the task, which have other grants on other nodes."""
        task = self._current.task()
        return (task.job * 1009 + task.index * 31 + task.attempt) % _TAGS if task else 0


class Mount:
    """Code and environment that are loaded: one environment for the life of the process, one module at a time."""

    def __init__(self) -> None:
        self._own = [path for path in sys.path if path.endswith("site-packages")]
        self._packages = ""
        self._workdir = ""
        self._module = ""

    def take(self, python: str, workdir: str, module: str) -> Any:
        """The module of this checkout, with the packages of this environment.

        Raises
        ------
        RuntimeError
            Another environment is loaded already, or it is of another Python.
        """
        packages = _packages_of(python)
        if packages != self._packages:
            if self._packages:
                raise RuntimeError(
                    f"the MPI process of this rank has loaded another environment, {self._packages}, and two cannot "
                    "live in one process: give both functions the same requirements, or start another allocation"
                )
            self._packages = packages
            self._hide_ours()
            sys.path.append(packages)
        if (workdir, module) != (self._workdir, self._module):
            self._leave()
            self._workdir, self._module = workdir, module
            sys.path.insert(0, workdir)
            importlib.invalidate_caches()
        return importlib.import_module(module)

    def _hide_ours(self) -> None:
        """What is not in its environment the function shall not find, but what we and MPI need."""
        sys.path[:] = [path for path in sys.path if path not in self._own]
        for name, loaded in list(sys.modules.items()):
            file = getattr(loaded, "__file__", None) or ""
            if name.partition(".")[0] not in _KEPT and any(file.startswith(own + os.sep) for own in self._own):
                del sys.modules[name]

    def _leave(self) -> None:
        """Forget the modules of the checkout before: another commit has others by the same names."""
        if not self._workdir:
            return
        for name, loaded in list(sys.modules.items()):
            if (getattr(loaded, "__file__", None) or "").startswith(self._workdir + os.sep):
                del sys.modules[name]
        sys.path[:] = [path for path in sys.path if path != self._workdir]


@cache
def _packages_of(python: str) -> str:
    """Where the packages of an environment lie, which does not change; to look there each time took 0.3 ms a call.

    Raises
    ------
    RuntimeError
        It is of another Python than this process.
    """
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = glob.glob(os.path.join(os.path.dirname(os.path.dirname(python)), "lib", "python*", "site-packages"))
    for folder in found:
        if os.path.basename(os.path.dirname(folder)) == own:
            return folder
    have = ", ".join(os.path.basename(os.path.dirname(folder)) for folder in found) or "no Python"
    raise RuntimeError(f"functions of several ranks run in {own}, and their environment has {have}")

