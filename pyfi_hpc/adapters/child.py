"""Runner processes of a rank: starts them, reads and writes their pipes, ends them with all they left behind.

One epoll holds the pipes, the processes (pidfd: a grandchild that keeps a pipe open hides no death) and a
timer, so a poller waits for one descriptor. Nothing here decides anything: see ``core/rank.py``.

While a runner has tasks in flight its answers are looked for each ``GATHER_S``, so at 50,000 tasks/s the rank wakes a
thousand times a second, not once per task. When it finds none it sleeps, and the runner says when there is one.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

from pyfi_hpc.adapters.runner_process import Body, RunnerProcess
from pyfi_hpc.adapters.surroundings import MemoryKills, Orphans, widen
from pyfi_hpc.adapters.timer import Timer
from pyfi_hpc.errors import SiteError
from pyfi_hpc.model.effects import Action, GivePermits, KillRunner, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, RunnerExited, RunnerSpoke
from pyfi_hpc.model.limits import Limits

#: results that come closer together than this are read together, seconds
GATHER_S = 0.004
#: the system has no process, memory or descriptor left: that passes
_PASSES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
#: a runner that cannot be started for such a reason is tried again so often and given up after so long, seconds
_START_AGAIN_S, _START_LIMIT_S = 0.5, 30.0
#: the MPI process ends by itself when MPI takes too long; to import all it needs it has so much more, seconds
_MPI_MORE_S = 20.0


class Runners:
    """The port and the doer of a rank's runners.

    Parameters
    ----------
    limits
        Sizes of results and of output.
    scratch : Path
        Private folder on this node; each runner gets a folder in it to work in, removed when it ends.
    adopt : bool
        This process exists for its runners only: it adopts what they leave behind and ends it.
    """

    def __init__(self, limits: Limits, scratch: Path, adopt: bool = False) -> None:
        self._limits = limits
        self._scratch = scratch
        self._orphans = Orphans() if adopt else None
        _remove_stale(scratch)
        self._runners: dict[int, RunnerProcess] = {}
        self._epoll = select.epoll()
        #: readable when ``receive`` has something to do
        self.waitable: Any = self._epoll.fileno()
        self._timer = Timer()
        self._epoll.register(self._timer.fd, select.EPOLLIN)
        #: descriptor -> what it belongs to
        self._owners: dict[int, RunnerProcess] = {}
        #: events that no descriptor tells
        self._ready: list[Any] = []
        #: runners that could not be started yet: number -> (what to start, until when to try, when again)
        self._late: dict[int, tuple[StartRunner, float, float]] = {}
        #: the MPI process beside this rank, until it is asked for
        self._mpi: RunnerProcess | None = None
        self._memory = MemoryKills()
        self._timer_at = 0.0

    def start_mpi(self, body: Body, limit_s: float) -> list[Any]:
        """Start the MPI process of this rank; its place in its world, see ``hosts/mpi_runner.py``.

        ``body`` is what it does; it ends by itself when MPI has not started after ``limit_s`` seconds.

        Raises
        ------
        SiteError
            MPI did not start in time.
        """
        process = RunnerProcess(StartRunner(0, "", "", ""), self._limits, self._scratch, body)
        until = monotonic() + limit_s + _MPI_MORE_S
        said: list[Any] = []
        while not said and not process.hung_up and monotonic() < until:
            select.select([process.read_fd], [], [], until - monotonic())
            said = process.read()
        if not said:
            process.kill(hard=True)
            process.end_group()
            end = process.reap(self._limits.output_bytes_max, self._memory)
            raise SiteError(
                f"MPI did not start: {end.how}", where=end.stderr.decode(errors="replace")[-2000:],
                fix="see the log of the rank step, and `pyfi doctor`",
            )  # fmt: skip
        self._mpi, self._mpi_said = process, said[1:]
        return list(said[0][1:])

    def pin_mpi(self, core: int) -> None:
        """The MPI process uses the core of its rank: while it works, the rank's runners do not."""
        if self._mpi is not None and core >= 0:
            widen(self._mpi.pid, [core])

    def do(self, action: Action) -> None:
        """Carry out an action on a runner; what comes of it returns from ``receive``."""
        if isinstance(action, StartRunner):
            self._start(action, monotonic() + _START_LIMIT_S)
            return
        assert isinstance(action, WriteRunner | KillRunner | TakePermits | GivePermits)
        if action.runner in self._late:
            start, _, _ = self._late.pop(action.runner)
            self._could_not(start, "it was ended before it could be started")
            return
        process = self._runners.get(action.runner)
        if process is None:  # it has just ended; RunnerExited tells
            return
        if isinstance(action, KillRunner):
            process.kill(action.hard)
            return
        if isinstance(action, WriteRunner):
            process.write(action.frame, action.permits)
        elif isinstance(action, GivePermits):
            process.give_permits(action.count)
        else:
            self._soon(PermitsTaken(action.runner, process.take_permits()))
        self._watch(process)

    def receive(self) -> list[RunnerSpoke | RunnerExited | PermitsTaken]:
        """What the runners wrote and how they ended; bounded, never blocks."""
        events, self._ready = self._ready, []
        now = monotonic()
        self._turn(now, events)
        exited: list[RunnerProcess] = []
        for fd, _ in self._epoll.poll(0):
            process = self._owners.get(fd)
            if process is None:
                self._timer.clear()
                self._timer_at = 0.0
            elif fd == process.pidfd:
                exited.append(process)
            elif fd == process.watched:
                process.flush()
                self._watch(process)
            else:
                self._read(process, now, events)
        for process in exited:
            self._end(process, events)
        self._set_timer()
        return events

    def close(self) -> None:
        """Kill what is left; used when the rank ends."""
        for process in list(self._runners.values()):
            process.kill(hard=True)
            self._end(process, [])
        if self._mpi is not None:
            self._mpi.kill(hard=True)
            self._mpi.end_group()
            self._mpi.reap(self._limits.output_bytes_max, self._memory)
        self._timer.close()
        self._epoll.close()

    def _start(self, action: StartRunner, give_up: float) -> None:
        if action.mpi:
            self._take_mpi(action)
            return
        try:
            process = RunnerProcess(action, self._limits, self._scratch)
        except OSError as error:
            again = monotonic() + _START_AGAIN_S
            if error.errno in _PASSES and again < give_up:
                self._late[action.runner] = (action, give_up, again)
                self._wake(again)
            else:
                self._could_not(action, f"it could not be started: {error}")
            return
        self._add(action, process)

    def _take_mpi(self, action: StartRunner) -> None:
        process, self._mpi = self._mpi, None
        if process is None:
            self._could_not(action, "this rank has left its MPI world, or never was in one")
            return
        process.number = action.runner
        self._add(action, process)
        if self._mpi_said:
            self._soon(RunnerSpoke(action.runner, self._mpi_said))

    def _add(self, action: StartRunner, process: RunnerProcess) -> None:
        self._runners[action.runner] = process
        self._owners[process.read_fd] = self._owners[process.pidfd] = process
        self._epoll.register(process.read_fd, select.EPOLLIN)
        self._epoll.register(process.pidfd, select.EPOLLIN)

    def _could_not(self, action: StartRunner, how: str) -> None:
        self._soon(RunnerExited(runner=action.runner, status=127, how=how))

    def _soon(self, event: RunnerExited | PermitsTaken | RunnerSpoke) -> None:
        """The next ``receive`` has it."""
        self._ready.append(event)
        self._wake(0.0)

    def _read(self, process: RunnerProcess, now: float, events: list[Any]) -> None:
        found = self._said(process, events)
        if found and process.in_flight > 0:
            process.watch()
        else:
            while not process.rest():  # it answered while we went to sleep
                found = self._said(process, events) or found
        process.read_at = now + GATHER_S
        pause = process.noisy and process.awake
        if process.hung_up:
            if process.read_fd in self._owners:
                self._epoll.unregister(process.read_fd)
                del self._owners[process.read_fd]
        elif pause != process.paused:
            self._epoll.modify(process.read_fd, 0 if pause else select.EPOLLIN)
        process.paused = pause

    @staticmethod
    def _said(process: RunnerProcess, events: list[Any]) -> bool:
        frames = process.read()
        if frames:
            events.append(RunnerSpoke(runner=process.number, frames=frames))
        return bool(frames)

    def _turn(self, now: float, events: list[Any]) -> None:
        """Read where the pause is over; look at the output of what runs for long."""
        for action, give_up, again in list(self._late.values()) if self._late else ():
            if again <= now + 1e-5:
                del self._late[action.runner]
                self._start(action, give_up)
        for process in self._runners.values():
            if process.awake and process.read_at <= now + 1e-5:
                self._read(process, now, events)
            if process.in_flight > 0 and process.look_at <= now:
                process.look(now, self._limits.output_bytes_max)
        if self._orphans is not None:
            self._orphans.reap(now, self._pids())

    def _set_timer(self) -> None:
        soonest = min((again for _, _, again in self._late.values()), default=0.0) if self._late else 0.0
        for process in self._runners.values():
            for is_on, at in ((process.awake, process.read_at), (process.in_flight > 0, process.look_at)):
                if is_on and (not soonest or at < soonest):
                    soonest = at
        if soonest or self._ready:
            self._wake(0.0 if self._ready else soonest)

    def _wake(self, at: float) -> None:
        if not self._timer_at or at < self._timer_at:
            self._timer.set(at)
            self._timer_at = at or -1.0

    def _watch(self, process: RunnerProcess) -> None:
        """Ask for writability only while something waits to be written."""
        blocked = process.blocked
        if blocked == process.watched:
            return
        if process.watched >= 0:
            self._epoll.unregister(process.watched)
            del self._owners[process.watched]
        if blocked >= 0:
            self._epoll.register(blocked, select.EPOLLOUT)
            self._owners[blocked] = process
        process.watched = blocked

    def _end(self, process: RunnerProcess, events: list[Any]) -> None:
        process.end_group()  # before it is reaped: until then nobody else can have its number
        while frames := process.read(at_end=True):
            events.append(RunnerSpoke(runner=process.number, frames=frames))
        del self._runners[process.number]
        for fd in {process.read_fd, process.pidfd, process.watched} - {-1}:
            self._owners.pop(fd, None)
        events.append(process.reap(self._limits.output_bytes_max, self._memory))
        if self._orphans is not None:
            self._orphans.end(process.mark, self._pids(), process.had_step)

    def _pids(self) -> set[int]:
        found = {process.pid for process in self._runners.values()}
        return found | {self._mpi.pid} if self._mpi is not None else found


def _remove_stale(scratch: Path) -> None:
    """Folders of runners whose rank died before it could remove them."""
    for folder in scratch.glob("runner-*"):
        pid = folder.name.split("-")[1]
        if not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(folder, ignore_errors=True)
