"""Imagined runners: they take the time that a payload names and obey the protocol of runner/child.py.

A task's payload is text: flags, then its seconds.

    !   its process dies          ?   it raises        ^   it ignores SIGTERM
    @   the flags before ^ hold only for the first attempt
    >   it returns Continue a second before its node's end, with what is left to do
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pyfi_hpc.model.events import RunnerExited, RunnerSpoke
from pyfi_hpc.model.packed import failure
from pyfi_hpc.model.states import Cause

if TYPE_CHECKING:
    from pyfi_hpc.sim.ranks import RankHost

#: over a unix socket, or a pipe
IPC_S = 20e-6
SIGTERM, SIGKILL = 15, 9
#: a rank that is awake looks at its runner's board no more often than this, as in adapters/child.py, seconds
_GATHER_S = 0.004
#: every third time it reads only so much later, seconds: on a node its core is not its own
_LATE_S = 0.002
_PAYLOAD = re.compile(r"([!?^@>]*)([0-9.]*)")
#: one that returns Continue does so that much before the end, seconds
_LEAD_S = 1.0


@dataclass(slots=True)
class Work:
    """What a payload asks for, at one attempt."""

    seconds: float
    crashes: bool = False
    raises: bool = False
    stubborn: bool = False
    goes_on: bool = False

    def leg(self, left_s: float) -> tuple[float, bytes]:
        """Seconds until it ends where so much time is left, and the state that it returns Continue with, if any."""
        leg_s = max(0.0, left_s - _LEAD_S)
        if not self.goes_on or leg_s >= self.seconds:
            return self.seconds, b""
        return leg_s, b"%r" % (self.seconds - leg_s)


def work_of(payload: bytes, attempt: int, state: bytes = b"") -> Work:
    match = _PAYLOAD.match(payload.decode())
    flags, seconds = match.groups() if match else ("", "")
    once = "@" in flags and attempt > 1
    seconds = state.decode() or seconds
    crashes, raises = "!" in flags and not once, "?" in flags and not once
    return Work(float(seconds or 0.001), crashes, raises, "^" in flags, ">" in flags)


def result_of(job: int, index: int, grant: int, inputs: Sequence[bytes]) -> bytes:
    """No two attempts return the same, and each tells what it was made from: see checks.check_descent."""
    return b"%d.%d by %d of %08x" % (job, index, grant, crc32(b" ".join(inputs)))


def in_blocks(frames: list[list[Any]]) -> list[list[Any]]:
    """What a runner says as the rank gets it: what returned and printed nothing comes in blocks, from the board."""
    found: list[list[Any]] = []
    for is_plain, group in groupby(frames, lambda f: f[0] == "done" and not f[3] and f[7] is None):
        if not is_plain:
            found += group
            continue
        started, durations, results = zip(*((f[4], f[5], f[6]) for f in group), strict=True)
        times = array("d", started).tobytes(), array("f", durations).tobytes()
        found.append(["returned", len(results), *times, array("I", map(len, results)), b"".join(results)])
    return found


class Runner:
    """The imagined child process: takes the time that a payload names and does what runner/child.py would.

    What lies in its pipes is there at once, but it looks at its inbox only when it has nothing to start, or when a
    permit says so; it wakes a little later, and the rank reads its words later still: the rank is behind, as in truth.
    """

    def __init__(self, rank: RankHost, number: int, mpi: bool = False) -> None:
        self.rank = rank
        self.number = number
        self._mpi = mpi
        self.dead = False
        self.broken = not mpi and rank.chance.random() < rank.cluster.plan.import_fails
        self._inbox: list[list[Any]] = []
        #: True: look at the inbox first
        self._permits: deque[bool] = deque()
        self._look_first = False
        self._has_permit = False
        self._runs: deque[list[Any]] = deque()
        self._skips: dict[int, list[tuple[int, int]]] = {}
        #: the run's number, position in it, and what the task there does
        self._task: tuple[int, int, Work] | None = None
        self._began = 0.0
        self._position = 0
        self._ready = False
        self._turn = 0
        #: frames that the rank has not read, and when it last read some
        self._spoken: list[list[Any]] = []
        self._read_at = 0.0
        plan = rank.cluster.plan
        slow = rank.chance.random() < plan.slow_start
        rank.world.after(plan.import_s * (20.0 if slow else 1.0), self._imported)

    @property
    def busy(self) -> bool:
        return self._task is not None

    # --- the rank's ends of its pipes -----------------------------------------------------------------

    def write(self, frame: list[Any] | None, permits: int) -> None:
        """A frame, and permits behind it."""
        if frame is not None:
            self._inbox.append(frame)
        if permits:
            self._permits.append(self._look_first)
            self._permits.extend([False] * (permits - 1))
            self._look_first = False
        self.rank.world.after(IPC_S, self._awake)

    def take_permits(self) -> int:
        taken = len(self._permits)
        self._permits.clear()
        self._look_first = True
        return taken

    def signal(self, number: int) -> None:
        if self.dead or (number == SIGTERM and self._task is not None and self._task[2].stubborn):
            return
        name = {SIGTERM: "Terminated", SIGKILL: "Killed"}[number]
        self._exit(-number, f"signal {number} ({name})")

    # --- what it does ---------------------------------------------------------------------------------

    def _imported(self) -> None:
        if self.dead:
            return
        if self.broken:
            self.rank.cluster.count("imports that fail")
            self._speak(["broken", failure("ImportError", "no module named sample")])
            self._exit(1, "exit code 1")
            return
        self._ready = True
        self._speak(["ready", self.number, "3.12.0", 1e9 + self.rank.world.now])
        self._awake()

    def _awake(self) -> None:
        """Something came while it waited."""
        if self._ready and not self.dead and self._task is None:
            self._look()
            self._next()

    def _look(self) -> None:
        for frame in self._inbox:
            if frame[0] == "run":
                self._runs.append(frame)
            elif frame[0] == "skip":
                self._skips.setdefault(frame[1], []).append((frame[2], frame[3]))
            else:
                self._exit(0, "exit code 0")
        self._inbox.clear()

    def _next(self) -> None:
        """Start the next task, passing over those that are skipped."""
        while not self.dead:
            if not self._runs:
                if not self._inbox:
                    return
                self._look()
                continue
            frame = self._runs[0]
            at, count = self._position, len(frame[7]) // 4 - 1
            if at < count and not self._is_skipped(frame[1], at):
                if self._has_permit or self._take_permit():
                    self._start(frame, at)
                    return
                if not self._has_permit and not self._inbox:
                    return
                self._look()  # nothing to start without a permit, or one that says so
                continue
            self._position = at + 1
            if self._position >= count:
                self._runs.popleft()
                self._position = 0

    def _is_skipped(self, run: int, at: int) -> bool:
        return any(lo <= at < hi for lo, hi in self._skips.get(run, ()))

    def _take_permit(self) -> bool:
        """A plain one; one that says "look first" is kept at hand."""
        if not self._permits:
            return False
        self._has_permit = self._permits.popleft()
        return not self._has_permit

    def _start(self, frame: list[Any], at: int) -> None:
        _, run, job, first, attempt, grant, _, offsets, data, inputs, _, ends_at, state = frame[:13]
        roster = frame[13][3] if self._mpi else [self.rank.number]
        self._has_permit = False
        start, end = array("I", offsets[4 * at : 4 * at + 8])
        work = work_of(data[start:end], attempt, state)
        leg_s, after = work.leg(ends_at - self.rank.now if ends_at else float("inf"))
        self._task = (run, at, work)
        cluster = self.rank.cluster
        task = ("job", job, first + at, 1)
        cluster.tell(self.rank.name, f"runs {job}.{first + at} attempt={attempt} for {leg_s:g} s", task)
        if self.rank.number == roster[0]:
            cluster.execute(job, first + at, attempt, grant)
        self._turn += 1
        if (work.crashes or work.raises) and self.rank.number != roster[-1]:
            return  # the last one fails, and the others wait for it in a collective call, for ever
        result = result_of(job, first + at, grant, inputs[at] if inputs else ())
        self._began = self.rank.world.now
        cluster.after(leg_s, self._end, self._turn, self._began, after or result, bool(after))

    def _end(self, turn: int, began: float, result: bytes, goes_on: bool) -> None:
        if self.dead or self._task is None or turn != self._turn:
            return
        run, at, work = self._task
        self._task = None
        self._position += 1
        if work.crashes:
            self._exit(-11, "signal 11 (Segmentation fault)")
            return
        cause = Cause.CONTINUED if goes_on else Cause.NONE
        if goes_on:
            self.rank.cluster.count("continued")
        if work.raises:
            cause, result = Cause.ERROR, failure("ValueError", "as its payload asks", "builtins")
        now = self.rank.world.now
        self._speak(["done", run, at, int(cause), 1e9 + began, now - began, result, None, None])
        self._next()

    def _exit(self, status: int, how: str) -> None:
        if not self.dead:
            self.dead = True
            if self._task is not None:
                self.rank.agent.cut(self.rank.world.now - self._began)
            self._task = None
            self.rank.cluster.tell(self.rank.name, f"runner {self.number} ended: {how}")
            self.rank.world.after(IPC_S, self._told, RunnerExited(self.number, status, how))

    # --- what the rank hears of it --------------------------------------------------------------------

    def _speak(self, frame: list[Any]) -> None:
        if not self._spoken:
            late_s = self.rank.chance.choice((IPC_S, IPC_S, _LATE_S))
            self.rank.world.at(max(self.rank.world.now + late_s, self._read_at + _GATHER_S), self._told, None)
        self._spoken.append(frame)

    def _told(self, end: RunnerExited | None) -> None:
        events: list[Any] = []
        if self._spoken:
            self._read_at = self.rank.world.now
            events.append(RunnerSpoke(self.number, in_blocks(self._spoken)))
            self._spoken = []
        if end is not None:
            self.rank.runners.pop(self.number, None)
            events.append(end)
        if events:
            self.rank.tell(*events)
