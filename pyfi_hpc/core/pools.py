"""Pools and their jobs, as the machine of elastic allocations knows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyfi_hpc.core.demand import Supply, too_long, unfit
from pyfi_hpc.model.allocations import JobSeen, Note, Pool
from pyfi_hpc.model.elastic import Backlog, NodeTold, Pace, Saved


@dataclass(slots=True)
class Job:
    """One allocation that has not ended, as far as is known. Times are monotonic seconds."""

    note: Note
    #: when its submission was answered, or its note read
    since: float
    seen: JobSeen | None = None
    seen_at: float = 0.0
    #: when it was first seen to run
    ran_at: float | None = None
    #: when ranks of it were first there
    joined_at: float | None = None
    #: its live nodes, as the broker told last
    nodes: list[NodeTold] = field(default_factory=list)
    #: when its last node was seen
    nodes_at: float = 0.0
    #: since when it has had nothing to do
    idle_at: float | None = None
    #: why it is being ended, and when that was last asked for; empty: it is not
    ending: str = ""
    ending_at: float = 0.0
    #: it is being ended only because it had nothing to do
    for_idleness: bool = False
    #: the queue does not show it any more, and it was asked how it ended
    lost: bool = False

    @property
    def key(self) -> str:
        return self.note.key

    @property
    def waits(self) -> bool:
        return self.seen is None or self.seen.phase == "waits"

    @property
    def ranks(self) -> int:
        return sum(node.ranks for node in self.nodes)

    def left_s(self, now: float) -> float:
        """Seconds to its walltime; infinite where nobody knows."""
        if self.seen is None or self.seen.left_s is None:
            return float("inf")
        return max(0.0, self.seen.left_s - (now - self.seen_at))

    @property
    def words(self) -> str:
        """What the batch system says, and what is seen of it here."""
        text = self.seen.words if self.seen else "submitted, not looked at yet"
        if self.nodes:
            text += f", {self.ranks} ranks on {', '.join(sorted({n.name.partition('/')[0] for n in self.nodes}))}"
        elif not self.waits and self.joined_at is None:
            text += ", its ranks have not joined yet"
        return f"{text}; {self.ending}" if self.ending else text


@dataclass(slots=True)
class PoolState:
    """A pool, and what it has come to."""

    pool: Pool
    #: a submission was sent that was not answered yet
    submitting: int = 0
    #: nobody answered a submission: the job may be there, and the next status tells
    unsure: bool = False
    #: refusals and starts that came to nothing, one after the other
    failures: int = 0
    retry_at: float = 0.0
    #: the last refusal, in the batch system's words
    refused: str = ""
    #: an allocation of it has joined since the last failure: more than one at once may be asked for
    proved: bool = False
    #: how long its allocations have waited in the queue, an average
    wait_s: float = 0.0
    #: what could not run in an allocation that was there, by `Work.key`
    cannot: set[str] = field(default_factory=set)
    #: what was decided last, and why
    why: list[str] = field(default_factory=list)

    def may_come(self, backlog: Backlog) -> bool:
        """Whether tasks wait that an allocation of this pool could get now."""
        return any(
            work.room and not unfit(work, self.pool, self.cannot) and not too_long(work, self.pool)
            for work in backlog.work
        )  # fmt: skip

    def failed(self, words: str, now: float, pace: Pace) -> float:
        """Back off; the seconds until the next try."""
        if now < self.retry_at:  # of several that were under way: one failure
            self.refused, self.proved = words, False
            return self.retry_at - now
        self.failures += 1
        wait_s = min(pace.backoff_s_max, pace.backoff_s * 2.0 ** min(self.failures - 1, 30))
        self.retry_at, self.refused, self.proved = now + wait_s, words, False
        return wait_s

    def joined(self, job: Job) -> None:
        """Ranks of an allocation are there: whatever was wrong is not any more."""
        self.failures, self.retry_at, self.refused, self.proved = 0, 0.0, "", True
        if job.ran_at is not None:
            waited_s = max(0.0, job.ran_at - job.since)
            self.wait_s = waited_s if not self.wait_s else self.wait_s + 0.3 * (waited_s - self.wait_s)

    def restore(self, saved: Saved, now: float, utc: float) -> None:
        """What was known before this process started, but for what has passed since."""
        self.failures, self.refused, self.proved = saved.failures, saved.words, saved.proved
        self.wait_s = saved.wait_s
        self.retry_at = now + max(0.0, saved.retry_at - utc) if saved.failures else 0.0


@dataclass(slots=True)
class System:
    """One batch system: when it was asked, and what became of it."""

    asked: bool = False
    asked_at: float = float("-inf")
    #: when it last answered; None: never
    read_at: float | None = None
    #: answers in a row that were none, and the last one's words
    trouble: int = 0
    words: str = ""


@dataclass(slots=True)
class State:
    """Tables of the machine of elastic allocations; the decisions in allot work on them."""

    pace: Pace
    #: UTC minus monotonic seconds
    utc_offset: float
    pools: dict[str, PoolState] = field(default_factory=dict)
    #: by key; of all pools, and those that were asked for with ``pyfi up --slurm``
    jobs: dict[str, Job] = field(default_factory=dict)
    systems: dict[str, System] = field(default_factory=dict)
    backlog: Backlog | None = None
    #: why there is no backlog
    silence: str = "the broker has not been asked yet"
    #: since when tasks of functions that have not been timed run, by socket
    running_since: dict[str, float] = field(default_factory=dict)

    def utc(self, now: float) -> float:
        return now + self.utc_offset

    def managed(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.note.pool]

    def of(self, name: str) -> list[Job]:
        """Jobs of a pool."""
        return [job for job in self.jobs.values() if job.note.pool == name]


def supply_of(job: Job, pool: Pool | None, state: PoolState | None, now: float, utc: float, pace: Pace) -> Supply:
    """What ranks of an allocation are worth, from now on."""
    drain_s = float(pool.request.drain_s) if pool else 60.0
    if job.ending or job.lost:
        return Supply(0)
    if job.waits:
        usable_s = pool.usable_s if pool else float("inf")
        start_s = expected_s(job, state.wait_s if state else 0.0, now, utc)
        return Supply(job.note.ranks, start_s, start_s + usable_s)
    end_s = max(0.0, job.left_s(now) - drain_s)
    if job.nodes:
        return Supply(sum(node.ranks for node in job.nodes if node.usable), 0.0, end_s)
    late = job.joined_at is not None or (job.ran_at is not None and now - job.ran_at > pace.join_s)
    return Supply(0 if late else job.note.ranks, 0.0, end_s)


def expected_s(job: Job, wait_s: float, now: float, utc: float) -> float:
    """Seconds until a waiting allocation starts: as told, else as others waited, else as long as it has waited."""
    if job.seen is not None and job.seen.start_at is not None:
        return max(0.0, job.seen.start_at - utc)
    waited_s = now - job.since
    return wait_s - waited_s if waited_s < wait_s else waited_s


def look_whether_idle(job: Job, may_come: bool, now: float) -> None:
    """Note since when a job has had nothing to do: no task with its nodes, and none that ``may_come``."""
    if not job.nodes:
        idle, still_s = not may_come, float("inf")
    else:
        usable = any(node.usable and node.ranks for node in job.nodes)
        idle = not any(node.outstanding for node in job.nodes) and not (may_come and usable)
        still_s = min((node.still_s for node in job.nodes if node.still_s is not None), default=float("inf"))
    if not idle:
        job.idle_at = None
    else:  # a task that came and went since the last look tells by its end
        job.idle_at = max(now if job.idle_at is None else job.idle_at, now - still_s)
