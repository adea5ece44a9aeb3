"""States of a task and causes of an attempt's end: the same words inside and for users (FEATURES, ruling 9)."""

from __future__ import annotations

from enum import IntEnum


class TaskState(IntEnum):
    """State of a task; final from COMPLETED on. Stored as one byte per task."""

    BLOCKED = 0  #: waits for results of other tasks; shown as PENDING (Dependency)
    PENDING = 1  #: ready, waits for an idle rank
    RUNNING = 2  #: granted to a node
    COMPLETED = 3
    FAILED = 4
    TIMEOUT = 5
    CANCELLED = 6
    SKIPPED = 7  #: never ran: one that it depends on did not complete

    @property
    def code(self) -> str:
        """Slurm's two letters."""
        return _CODES[self]

    @property
    def word(self) -> str:
        """What users read: a blocked task is PENDING."""
        return "PENDING" if self is TaskState.BLOCKED else self.name


FIRST_FINAL = TaskState.COMPLETED

_CODES = {
    TaskState.BLOCKED: "PD",
    TaskState.PENDING: "PD",
    TaskState.RUNNING: "R",
    TaskState.COMPLETED: "CD",
    TaskState.FAILED: "F",
    TaskState.TIMEOUT: "TO",
    TaskState.CANCELLED: "CA",
    TaskState.SKIPPED: "SK",
}


class Cause(IntEnum):
    """Why an attempt ended. Stored as one byte; the broker decides what follows from it."""

    NONE = 0  #: the function returned
    ERROR = 1  #: the function raised, or its result cannot be sent
    TIME_LIMIT = 2  #: ended at the task's own time limit
    CRASH = 3  #: the runner died: os._exit, a signal, a segmentation fault
    OUT_OF_MEMORY = 4
    RANK_LOST = 5  #: the rank process died
    NODE_FAIL = 6  #: the node fell silent
    WALLTIME = 7  #: the allocation ended
    PREEMPTED = 8
    ENVIRONMENT = 9  #: the code or its environment could not be prepared on the node
    RELEASED = 10  #: handed back before it started; no attempt was made
    CANCELLED = 11
    STALE = 12  #: an outcome whose grant had been taken back; never counts
    CONTINUED = 13  #: the function returned Continue: the next attempt goes on from its state


class RankState(IntEnum):
    STARTING = 0
    IDLE = 1
    BUSY = 2
    DRAINING = 3
    GONE = 4


class AllocationState(IntEnum):
    REQUESTED = 0
    PENDING = 1
    ACTIVE = 2
    DRAINING = 3
    ENDED = 4


class OnFailure(IntEnum):
    """What a failure inside a structure does to its siblings (FEATURES, ruling 3)."""

    FINISH = 0
    CANCEL = 1


#: how many tasks of a job may run at once, if the job says it at all
AT_ONCE_MAX = (1 << 14) - 1
