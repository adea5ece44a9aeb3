"""What a rank remembers: bundles that are not finished, and its runners."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pyfi_hpc.model.events import RunnerExited
from pyfi_hpc.model.messages import Bundle
from pyfi_hpc.model.states import Cause

#: an environment: interpreter, checkout, module
Key = tuple[str, str, str]


@dataclass(slots=True, eq=False)
class Work:
    """A bundle that is not finished."""

    bundle: Bundle
    #: tasks that are not to run, or not to go on, by position in the bundle
    killed: dict[int, Cause] = field(default_factory=dict)
    #: tasks that were handed back already, by position; what becomes of them here is not reported
    told: set[int] = field(default_factory=set)
    #: the first task without an outcome, as position in the bundle
    next: int = 0
    #: the run that it is written as; 0: not written
    run: int = 0
    #: position in the bundle of the run's first task
    base: int = 0

    @property
    def key(self) -> Key:
        return (self.bundle.python, self.bundle.workdir, self.bundle.module)

    @property
    def finished(self) -> bool:
        return self.next >= self.bundle.count


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
    #: the head that the signal was meant for, and why
    target: tuple[Work, int, Cause] | None = None
    #: how it died, of a TERM that is not ours; what that means shows before ``deadline``
    lost: RunnerExited | None = None
