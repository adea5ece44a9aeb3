"""What a rank remembers: bundles that are not finished, and its runners."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyfi_hpc.model.events import RunnerExited
from pyfi_hpc.model.messages import Bundle
from pyfi_hpc.model.states import Cause

#: variables and cores that a runner is started with
Setting = tuple[tuple[tuple[str, str], ...], tuple[int, ...]]
#: an environment: interpreter, checkout, module, and with what it is started
Key = tuple[str, str, str, Setting]
#: what runs tasks together with other ranks: the MPI process beside the rank, whatever the code
GANG: Key = ("", "", "mpi", ((), ()))


@dataclass(slots=True, eq=False)
class Work:
    """A bundle that is not finished."""

    bundle: Bundle
    #: tasks that are not to run, or not to go on, by position in the bundle
    killed: dict[int, Cause] = field(default_factory=dict)
    #: tasks that cannot start in this run, by position: the runner has no permit for them
    skipped: set[int] = field(default_factory=set)
    #: those of them that were handed back: that is their outcome
    told: set[int] = field(default_factory=set)
    #: the first task without an outcome, as position in the bundle
    next: int = 0
    #: the run that it is written as; 0: not written
    run: int = 0
    #: position in the bundle of the run's first task
    base: int = 0
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        b = self.bundle
        if b.roster:
            self.key = GANG
            return
        self.key = (b.python, b.workdir, b.module, (tuple(b.variables), tuple(b.cores)))

    @property
    def finished(self) -> bool:
        return self.next >= self.bundle.count

    def left(self) -> range:
        """Positions without an outcome; of those behind the first one some may have been handed back."""
        return range(self.next, self.bundle.count)

    def in_a_row(self) -> int:
        """How many tasks follow each other in the runner from the first one without an outcome."""
        if not self.skipped:
            return self.bundle.count - self.next
        behind = [i for i in self.skipped if i >= self.next]
        return min(behind, default=self.bundle.count) - self.next

    def as_run(self, number: int) -> list[Any]:
        """What a runner is to run of it, as a frame; what is killed already it is to skip."""
        b = self.bundle
        self.run, self.base = number, self.next
        self.skipped = {i for i in self.killed if i >= self.base}
        frame = [
            "run", number, b.job, b.first + self.base, b.attempt, b.grant, b.function, b.offsets[4 * self.base :],
            b.payload, b.inputs[self.base :], b.time_limit_s, b.ends_at, b.state,
        ]  # fmt: skip
        if b.seats:
            return [*frame, [[s.node, s.cores, s.gpus] for s in b.seats]]
        return [*frame, [b.python, b.workdir, b.module, b.roster, b.variables, b.cores]] if b.roster else frame

    def skips(self, positions: Iterable[int]) -> list[list[Any]]:
        """Frames that say that the runner is to pass over these, ascending."""
        return [["skip", self.run, lo - self.base, hi - self.base] for lo, hi in _ranges(positions)]


@dataclass(slots=True, eq=False)
class Runner:
    number: int
    key: Key
    #: when it gets its next signal: end of the import, of the head's time, or of the grace after a signal
    deadline: float
    #: its module is imported
    ready: bool = False
    #: it got a signal or was told to stop; it gets no more runs
    ending: bool = False
    #: why the import failed was reported already
    told: bool = False
    runs: deque[Work] = field(default_factory=deque)
    head_since: float = 0.0
    used_at: float = 0.0
    #: its permits are being taken back: it starts nothing more until some are given again
    taking: bool = False
    #: the head whose time is over; the signal waits until it is known that this is what runs
    late: tuple[Work, int] | None = None
    #: the head that the signal was meant for, and why
    target: tuple[Work, int, Cause] | None = None
    #: how it died, of a TERM that is not ours; what that means shows before ``deadline``
    lost: RunnerExited | None = None

    def line(self) -> list[tuple[Work, int]]:
        """Tasks that it was given and that have no outcome, less what it is to skip: one permit was written for each.

        The runner takes permits in this order, so with n of them back the last n tasks have not begun.
        """
        return [(work, i) for work in self.runs for i in work.left() if i not in work.skipped]

    def unstarted(self) -> list[tuple[Work, int]]:
        """What a runner that ends can never start: all behind the task that it was signalled for or died in.

        What was heard of it lags, so tasks between its head and that one may have begun and ended.
        """
        given = [(work, i) for work in self.runs for i in work.left()]
        last = self.target[:2] if self.target is not None else given[0] if given else None
        return given[given.index(last) + 1 :] if last in given else given

    def to_end(self, begun: list[tuple[Work, int]]) -> tuple[Work, int, Cause] | None:
        """What of the tasks that have begun is to be ended, and why: the last of them, or nothing."""
        late, self.late = self.late, None
        if not begun and not (self.runs and late == (self.runs[0], self.runs[0].next)):
            return None
        # a head that could not even begin in its time: what ran before it has left a runner that hangs
        work, at = running = begun[-1] if begun else (self.runs[0], self.runs[0].next)
        cause = work.killed.get(at, Cause.RELEASED)
        if cause is Cause.RELEASED and running == late:
            cause = Cause.TIME_LIMIT
        return None if cause is Cause.RELEASED else (work, at, cause)


def _ranges(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending positions as ranges (first, one after the last)."""
    found: list[tuple[int, int]] = []
    for i in positions:
        if found and found[-1][1] == i:
            found[-1] = found[-1][0], i + 1
        else:
            found.append((i, i + 1))
    return found
