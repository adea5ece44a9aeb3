"""A batch system, a broker and people, imagined, around the machine of elastic allocations: one seed, one story.

Time goes in steps. The world's commands take a while, fail, or are done though nobody answers; jobs wait, never join,
meet their walltime, are forgotten; the process is killed in the middle of a command. What must hold is checked where
it could break.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from pyfi_hpc.core.elastic import Elastic
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import AllocationRequest, JobSeen, Note, Pool, mark_of
from pyfi_hpc.model.effects import Effects

INSTANCE = "abc"
STEP_S = 0.5
WALLTIME_S = 600
DRAIN_S = 60
#: UTC at time zero
EPOCH = 1_700_000_000.0


@dataclass
class WorldJob:
    key: str
    mark: str
    ranks: int
    starts_at: float
    #: its ranks join so long after its start; None: never
    join_s: float | None
    system: str
    state: str = "waits"
    ran_at: float = 0.0
    ended_at: float = 0.0
    draining: bool = False
    #: ends of the tasks that run there
    running: list[float] = field(default_factory=list)
    last_end: float | None = None

    @property
    def alive(self) -> bool:
        return self.state != "ended"

    def joined(self, now: float) -> bool:
        return self.state == "runs" and self.join_s is not None and now >= self.ran_at + self.join_s


class World:
    """``faults``: how much goes wrong, 0 to 1."""

    def __init__(self, seed: int, faults: float = 0.0, pace: e.Pace | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = faults
        self.pace = pace or e.Pace.of(10.0)
        self.now = 0.0
        self.pools: dict[str, Pool] = {}
        self.notes: dict[str, Note] = {}
        self.jobs: dict[str, WorldJob] = {}
        self.log: list[str] = []
        self.saved: dict[str, Any] = {}
        self.machine: Elastic
        #: tasks that nobody has, their duration, and how many have ended
        self.ready = 0
        self.task_s = 20.0
        self.done = 0
        self.wait_s = (0.0, 60.0)
        #: submissions are refused, the queue is not told, the broker is away
        self.refuses = self.deaf = self.away = False
        #: tasks need what no node has
        self.never = False
        self._numbers = 100
        self._todo: deque[Any] = deque()
        self._busy_until = 0.0
        self._asked_at: dict[str, float] = {}
        self._told_at = 0.0
        #: refusals in a row of each pool: times
        self.refused: dict[str, list[float]] = {}
        self.submits = 0
        self.queries = 0

    # --- people -----------------------------------------------------------------------------------------

    def add(self, name: str = "p", *, batch: Any = "slurm", nodes: int = 1, ranks: int = 2, **given: Any) -> Pool:
        request = AllocationRequest(nodes=nodes, ntasks_per_node=ranks, time=str(WALLTIME_S // 60), drain_s=DRAIN_S)
        self.pools[name] = Pool(name=name, request=request, batch=batch, added=self.now, **given)
        return self.pools[name]

    def start(self) -> None:
        read = e.PoolsRead(dict(self.pools), [replace(note) for note in self.notes.values()])
        saved = {name: e.Saved(**told["saved"]) for name, told in self.saved.items() if name in self.pools}
        self._asked_at.clear()
        self._todo.clear()
        self._busy_until = 0.0
        self.machine = Elastic(self.pace, INSTANCE, read, saved, self.now, EPOCH + self.now)

    def kill(self) -> None:
        """kill -9 and a start: what was under way may have been done, and nobody noted it."""
        if self._todo and isinstance(self._todo[0], e.Submit) and not self.refuses and self.rng.random() < 0.7:
            self._new_job(self._todo[0].pool)
        for name in list(self.refused):
            self.refused[name] = []
        self.start()

    def alive(self, name: str) -> list[WorldJob]:
        return [job for job in self.jobs.values() if job.alive and job.mark == mark_of(INSTANCE, name)]

    # --- time -------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self._work()
            self._command()
            if self.now >= self.machine.wake_at():
                self._tell(None)

    def _tell(self, event: Any) -> None:
        if self.machine.stopped:
            return
        out = Effects()
        if event is not None:
            self.machine.handle(event, self.now, out)
        self.machine.advance(self.now, out)
        assert not out.messages and not out.records
        for action in out.actions:
            self._check(action)
            self._todo.append(action)
        for name in self.machine.pools:
            self.saved[name] = self.machine.told(name, self.now)

    def _work(self) -> None:
        for job in self.jobs.values():
            if job.state == "waits" and self.now >= job.starts_at:
                job.state, job.ran_at = "runs", self.now
            if job.state != "runs":
                continue
            ended = [end for end in job.running if end <= self.now]
            if ended:
                self.done += len(ended)
                job.last_end = max(ended)
                job.running = [end for end in job.running if end > self.now]
            if self.now >= job.ran_at + WALLTIME_S or (job.draining and not job.running):
                self._end(job)
                continue
            drains = job.draining or self.now >= job.ran_at + WALLTIME_S - DRAIN_S
            if job.joined(self.now) and not drains and not self.away:
                take = 0 if self.never else min(job.ranks - len(job.running), self.ready)
                self.ready -= take
                job.running += [self.now + self.task_s] * take

    def _end(self, job: WorldJob) -> None:
        self.ready += len(job.running)
        job.running, job.state, job.ended_at = [], "ended", self.now

    # --- commands ---------------------------------------------------------------------------------------

    def _command(self) -> None:
        """One after the other; each takes a while."""
        if not self._todo:
            return
        if not self._busy_until:
            slow = self.faults and self.rng.random() < 0.05 * self.faults
            self._busy_until = self.now + (30.0 if slow else self.rng.choice([0.0, 0.0, 0.5, 2.0]))
        if self.now >= self._busy_until:
            self._busy_until = 0.0
            action = self._todo.popleft()
            for event in getattr(self, "_do_" + type(action).__name__)(action):
                self._tell(event)

    def _do_AskBacklog(self, action: e.AskBacklog) -> list[Any]:
        read = e.PoolsRead(dict(self.pools), [replace(note) for note in self.notes.values()])
        if self.away:
            return [read, e.BacklogTold(None, "the broker has not answered within 5 s")]
        self._told_at = self.now
        nodes = [
            e.NodeTold(
                f"n{job.key}/{job.key}", job.key, job.ranks, len(job.running), not job.draining,
                None if job.last_end is None else self.now - job.last_end,
            )
            for job in self.jobs.values() if job.joined(self.now)
        ]  # fmt: skip
        running = sum(len(job.running) for job in self.jobs.values())
        work = [e.Work("f", self.ready, self.ready, running, self.task_s if self.done else None)]
        work[0].never = self.never and bool(nodes)
        return [read, e.BacklogTold(e.Backlog("", work if self.ready or running else [], nodes))]

    def _do_ReadStatus(self, action: e.ReadStatus) -> list[Any]:
        self.queries += 1
        if self.deaf or self.rng.random() < 0.1 * self.faults:
            return [e.StatusRead(action.system, None, "slurm_load_jobs error")]
        # ended jobs are shown for a while
        shown = [j for j in self.jobs.values() if j.system == action.system and (j.alive or self.now - j.ended_at < 30)]
        return [e.StatusRead(action.system, [self._seen(job) for job in shown if job.mark or job.key in action.keys])]

    def _seen(self, job: WorldJob) -> JobSeen:
        left_s = max(0.0, job.ran_at + WALLTIME_S - self.now) if job.state == "runs" else None
        word = {"waits": "PENDING", "runs": "RUNNING", "ended": "COMPLETED"}[job.state]
        return JobSeen(job.key, job.state, word, "", left_s, None, job.mark)  # type: ignore[arg-type]

    def _do_Submit(self, action: e.Submit) -> list[Any]:
        pool = action.pool
        if self.refuses:
            return [e.SubmitEnded(pool.name, pool.system, "", "Invalid account")]
        if self.rng.random() < 0.1 * self.faults:
            if self.rng.random() < 0.5:
                self._new_job(pool)
            return [e.SubmitEnded(pool.name, pool.system, "", "no answer in 30 s", unsure=True)]
        job = self._new_job(pool)
        self.notes[job.key] = Note(job.key, pool.system, pool.name, pool.ranks, at=EPOCH + self.now)
        return [e.SubmitEnded(pool.name, pool.system, job.key)]

    def _new_job(self, pool: Pool) -> WorldJob:
        known = self.machine.pools[pool.name].pool if pool.name in self.machine.pools else pool
        assert len(self.alive(pool.name)) < known.max, f"{self.now}: more than --max of {pool.name}"
        self._numbers += 1
        self.submits += 1
        broken = self.rng.random() < 0.1 * self.faults
        job = WorldJob(
            str(self._numbers), mark_of(INSTANCE, pool.name), pool.ranks, self.now + self.rng.uniform(*self.wait_s),
            None if broken else self.rng.uniform(1.0, 20.0), pool.system,
        )  # fmt: skip
        self.jobs[job.key] = job
        return job

    def stranger(self, mark: str) -> WorldJob:
        """A job that this process has not submitted."""
        self._numbers += 1
        job = WorldJob(str(self._numbers), mark, 2, self.now, 5.0, "slurm")
        self.jobs[job.key] = job
        return job

    def _do_NoteJob(self, action: e.NoteJob) -> list[Any]:
        self.notes[action.note.key] = replace(action.note)
        return []

    def _do_ForgetJob(self, action: e.ForgetJob) -> list[Any]:
        self.notes.pop(action.key, None)
        return []

    def _do_Cancel(self, action: e.Cancel) -> list[Any]:
        job = self.jobs[action.key]
        if job.alive and not (action.only_waiting and job.state != "waits") and not self.deaf:
            self._end(job)
        return []

    def _do_GiveBack(self, action: e.GiveBack) -> list[Any]:
        if not self.away:
            self.jobs[action.key].draining = True
        return []

    def _do_ReadEnds(self, action: e.ReadEnds) -> list[Any]:
        return [e.EndsRead(dict.fromkeys(action.keys, ""))]

    def _do_Tell(self, action: e.Tell) -> list[Any]:
        self.log.append(f"{self.now:.1f} {action.pool}: {action.text}")
        return []

    # --- what must hold ---------------------------------------------------------------------------------

    def _check(self, action: Any) -> None:
        if isinstance(action, e.ReadStatus):
            last = self._asked_at.get(action.system, -1e9)
            assert self.now - last >= self.pace.interval_s, f"{self.now}: asked {action.system} after {self.now - last}"
            self._asked_at[action.system] = self.now
        elif isinstance(action, e.Submit):
            state = self.machine.pools[action.pool.name]
            assert not state.pool.paused and self.now >= state.retry_at, f"{self.now}: submitted in a pause"
            assert not state.unsure, f"{self.now}: submitted while nobody knows of the last one"
        elif isinstance(action, e.GiveBack):
            self._check_given_back(self.machine.jobs[action.key])
        elif isinstance(action, e.Cancel) and not action.only_waiting:
            job = self.jobs[action.key]
            began = [end for end in job.running if end - self.task_s <= self._told_at]
            assert not began, f"{self.now}: {job.key} was ended while it ran {began}"

    def _check_given_back(self, known: Any) -> None:
        job, state = self.jobs[known.key], self.machine.pools.get(known.note.pool)
        if "without work" in known.ending and not job.draining and state is not None:
            began = [end for end in job.running if end - self.task_s <= self._told_at]
            assert not began, f"{self.now}: {job.key} was given back while it ran {began}"
            if job.last_end is not None and job.last_end <= self._told_at:
                since = self.now - job.last_end
                assert since >= state.pool.idle_s, f"{self.now}: {job.key} was idle for {since} s only"
