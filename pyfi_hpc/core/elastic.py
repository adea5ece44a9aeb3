"""The machine of elastic allocations: asks for them as the backlog wants, gives idle ones back.

It goes by rounds, one each interval: the broker tells the backlog, each batch system that has something of ours tells
its queue, once; then it decides. The batch system's queue is what counts: a job that bears our mark and that nobody
noted is adopted, or ended where nobody wants it. Whatever it decides it can tell, with the reason.

Pure: events and a time in, effects out. Its host reads stored pools, runs commands and asks the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyfi_hpc.core import allot
from pyfi_hpc.core.pools import Job, PoolState, State, System
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import JobSeen, Note, pool_of
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Signalled


class Elastic:
    """The machine of all pools of an instance.

    Parameters
    ----------
    pace : Pace
    instance : str
        What our marks name.
    read : PoolsRead
        The pools and notes at the start.
    saved : dict
        What pools remember of an earlier process.
    now, utc : float
        Monotonic seconds and UTC at the start.
    """

    def __init__(
        self, pace: e.Pace, instance: str, read: e.PoolsRead, saved: dict[str, e.Saved], now: float, utc: float
    ) -> None:
        self.state = State(pace, utc - now)
        self.pools, self.jobs, self.systems = self.state.pools, self.state.jobs, self.state.systems
        self.stopped = False
        self._instance = instance
        self._saved = saved
        self._backlog_asked = False
        #: jobs whose end was asked after: a round read their notes again if it began before they are forgotten
        self._ends_asked: set[str] = set()
        self._open = False
        self._round_at = self._decided_at = now
        self._pools_read(read, now, Effects())

    # --- the loop's side ------------------------------------------------------------------------------

    def handle(self, event: Any, now: float, out: Effects) -> None:
        _EVENTS[type(event)](self, event, now, out)

    def advance(self, now: float, out: Effects) -> None:
        waiting = self._backlog_asked or self._ends_asked or any(system.asked for system in self.systems.values())
        if self._open and not waiting:
            self._open, self._decided_at = False, now
            allot.decide(self.state, now, out)
            self.stopped = self.stopped or self._idle
        elif now >= self._round_at and not waiting:
            self._begin_round(now, out)

    def wake_at(self) -> float:
        return float("inf") if self._open else self._round_at

    def told(self, name: str, now: float) -> dict[str, Any]:
        """A pool for people, as plain values; times are UTC. ``saved`` is for the next process."""
        state, offset = self.pools[name], self.state.utc_offset
        retry_at = state.retry_at + offset if state.retry_at else 0.0
        return {
            "pool": name, "system": state.pool.system, "decided_at": round(self._decided_at + offset, 3),
            "why": state.why, "allocations": [_told(job, offset) for job in self.state.of(name)],
            "saved": {"failures": state.failures, "retry_at": retry_at, "words": state.refused, "proved": state.proved,
                      "wait_s": state.wait_s},
        }  # fmt: skip

    @property
    def _idle(self) -> bool:
        """Nothing is left to see to."""
        return not self.pools and not any(job.note.pool for job in self.jobs.values())

    def _begin_round(self, now: float, out: Effects) -> None:
        self._open, self._backlog_asked = True, True
        self._round_at = now + self.state.pace.interval_s
        out.actions.append(e.AskBacklog())
        used = [state.pool.system for state in self.pools.values()] + [job.note.system for job in self.state.managed()]
        for name in dict.fromkeys(used):
            system = self.systems.setdefault(name, System())
            keys = [job.key for job in self.jobs.values() if job.note.system == name and not job.lost]
            if self._due(name, system, bool(keys), now):
                system.asked, system.asked_at = True, now
                out.actions.append(e.ReadStatus(name, keys))

    def _due(self, name: str, system: System, has_jobs: bool, now: float) -> bool:
        """One question each interval, fewer while it does not answer, or has nothing of ours."""
        unsure = any(state.unsure for state in self.pools.values() if state.pool.system == name)
        intervals = 1 if has_jobs or unsure or system.read_at is None else self.state.pace.rest_intervals
        intervals = max(intervals, 2 ** min(system.trouble, 5) if system.trouble else 1)
        return now >= system.asked_at + intervals * self.state.pace.interval_s

    # --- events ---------------------------------------------------------------------------------------

    def _pools_read(self, event: e.PoolsRead, now: float, out: Effects) -> None:
        """Pools that are new, changed or gone; allocations that others have asked for."""
        for name, pool in event.pools.items():
            state = self.pools.get(name)
            if state is None:
                state = self.pools[name] = PoolState(pool)
                if name in self._saved:
                    state.restore(self._saved.pop(name), now, self.state.utc(now))
            elif pool != state.pool:
                # whoever changed it may have put right what was refused
                state.pool, state.failures, state.retry_at, state.refused = pool, 0, 0.0, ""
                state.cannot.clear()
        for name in [name for name in self.pools if name not in event.pools]:
            del self.pools[name]
        for note in event.notes:
            if note.key not in self.jobs:
                since = now - max(0.0, self.state.utc(now) - note.at) if note.at else now
                self.jobs[note.key] = Job(note, since, joined_at=since if note.joined else None)

    def _backlog_told(self, event: e.BacklogTold, now: float, out: Effects) -> None:
        self._backlog_asked = False
        self.state.backlog, self.state.silence = event.backlog, event.words
        if event.backlog is not None and event.backlog.held:
            self.state.backlog, self.state.silence = None, event.backlog.held
        if self.state.backlog is None or event.backlog is None:
            return
        running = [work.socket for work in event.backlog.work if work.mean_s is None and work.granted]
        self.state.running_since = {socket: self.state.running_since.get(socket, now) for socket in running}
        for job in self.jobs.values():
            self._look_at_nodes(job, now, out)

    def _look_at_nodes(self, job: Job, now: float, out: Effects) -> None:
        """Which nodes of a job the broker has told last."""
        told = self.state.backlog.nodes if self.state.backlog else []
        job.nodes = [node for node in told if node.allocation == job.key]
        if job.nodes:
            job.nodes_at = now
        if job.ranks and job.joined_at is None:
            job.joined_at, job.note.joined, job.idle_at = now, True, None
            out.actions.append(e.NoteJob(replace(job.note)))
            state = self.pools.get(job.note.pool)
            if state is not None:
                state.joined(job)
                out.actions.append(e.Tell(job.note.pool, f"{job.key} has joined with {job.ranks} ranks"))

    def _status_read(self, event: e.StatusRead, now: float, out: Effects) -> None:
        system = self.systems.setdefault(event.system, System())
        system.asked = False
        if event.jobs is None:
            system.trouble, system.words = system.trouble + 1, event.words
            return
        system.trouble, system.words, system.read_at = 0, "", now
        found = set()
        for seen in event.jobs:
            found.add(seen.key)
            job = self.jobs.get(seen.key)
            if job is None:
                job = self._orphan(seen, event.system, now, out)
            if job is not None:
                job.seen, job.seen_at = seen, now
                if seen.phase == "runs" and job.ran_at is None:
                    job.ran_at = now
        for job in [j for j in self.jobs.values() if j.note.system == event.system and not j.lost]:
            gone = job.key not in found and job.since < system.asked_at
            # Slurm may forget what lives: agents that beat know better
            if (gone and not job.nodes) or (job.seen is not None and job.seen.phase == "ended"):
                self._over(job, now, out)
        for state in self.pools.values():
            if state.pool.system == event.system and system.asked_at >= state.retry_at:
                state.unsure = False

    def _orphan(self, seen: JobSeen, system: str, now: float, out: Effects) -> Job | None:
        """A job that nobody noted: ours if it bears our mark, and then adopted or ended."""
        name = pool_of(seen.mark, self._instance)
        if name is None or seen.phase == "ended":
            return None
        state = self.pools.get(name)
        ranks = state.pool.ranks if state else 0
        job = Job(Note(seen.key, system, name, ranks, at=self.state.utc(now)), now)
        self.jobs[seen.key] = job
        self._look_at_nodes(job, now, out)
        if job.joined_at is None:  # else it is noted already
            out.actions.append(e.NoteJob(replace(job.note)))
        if state is not None and len(self.state.of(name)) + state.submitting <= state.pool.max:
            out.actions.append(e.Tell(name, f"{seen.key} was not noted and bears the mark of this pool: adopted"))
        else:
            job.ending = "nobody wants it: " + ("over --max" if state else "its pool is not there any more")
            out.actions.append(e.Tell(name, f"{seen.key} was not noted, and {job.ending}"))
        return job

    def _over(self, job: Job, now: float, out: Effects) -> None:
        """A job has left the queue; where that was no success, ask how it ended."""
        if job.seen is not None and job.seen.phase == "ended" and (job.joined_at or job.ending):
            self._ended(job, job.seen.words, now, out)
        else:
            job.lost = True
            self._ends_asked.add(job.key)
            out.actions.append(e.ReadEnds(job.note.system, [job.key]))

    def _ends_read(self, event: e.EndsRead, now: float, out: Effects) -> None:
        self._ends_asked.difference_update(event.words)
        for key, words in event.words.items():
            job = self.jobs.get(key)
            if job is not None and job.lost:
                told = job.seen.words if job.seen is not None and job.seen.phase == "ended" else "it has left the queue"
                self._ended(job, words or told, now, out)

    def _ended(self, job: Job, words: str, now: float, out: Effects) -> None:
        del self.jobs[job.key]
        out.actions.append(e.ForgetJob(job.key))
        state = self.pools.get(job.note.pool)
        if state is not None and job.joined_at is None and not job.ending:
            wait_s = state.failed(f"{job.key}: {words}", now, self.state.pace)
            words += f"; no rank of it had joined: nothing is asked for within {wait_s:.0f} s"
        if job.note.pool:
            out.actions.append(e.Tell(job.note.pool, f"{job.key} has ended: {words}"))

    def _submit_ended(self, event: e.SubmitEnded, now: float, out: Effects) -> None:
        state = self.pools.get(event.pool)
        if state is not None:
            state.submitting = max(0, state.submitting - 1)
        if event.key:
            ranks = state.pool.ranks if state else 0
            system = state.pool.system if state else event.system
            self.jobs[event.key] = Job(Note(event.key, system, event.pool, ranks, at=self.state.utc(now)), now)
            out.actions.append(e.Tell(event.pool, f"{event.key} is submitted"))
        elif state is not None:
            wait_s = state.failed(event.words, now, self.state.pace)
            state.unsure = state.unsure or event.unsure
            out.actions.append(e.Tell(event.pool, f"{event.words}; tried again in {wait_s:.0f} s"))

    def _signalled(self, event: Signalled, now: float, out: Effects) -> None:
        self.stopped = True


def _told(job: Job, offset: float) -> dict[str, Any]:
    seen = job.seen
    return {
        "allocation": job.key, "state": seen.state if seen else "SUBMITTED", "reason": seen.reason if seen else "",
        "expected_at": seen.start_at if seen else None, "ranks": job.ranks, "nodes": list(seen.nodes) if seen else [],
        "words": job.words, "since": round(job.since + offset, 3),
    }  # fmt: skip


_EVENTS: dict[type, Callable[[Elastic, Any, float, Effects], None]] = {
    e.PoolsRead: Elastic._pools_read,
    e.BacklogTold: Elastic._backlog_told,
    e.StatusRead: Elastic._status_read,
    e.SubmitEnded: Elastic._submit_ended,
    e.EndsRead: Elastic._ends_read,
    Signalled: Elastic._signalled,
}
