"""The machine of elastic allocations: asks for them as the backlog wants, gives idle ones back.

It goes by rounds, one each interval: the broker tells the backlog, each batch system that has something of ours tells
its queue, once; then it decides. The batch system's queue is what counts: a job that bears our mark and that nobody
noted is adopted, or ended where nobody wants it. Whatever it decides it can tell, with the reason.

Pure: events and a time in, effects out. Its host reads stored pools, runs commands and asks the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.core.demand import Supply, demand_of, worth
from pyfi_hpc.core.pools import Job, PoolState, expected_s, look_whether_idle, supply_of
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import JobSeen, Note, pool_of
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Signalled


@dataclass(slots=True)
class System:
    """One batch system: when it was asked, and what became of it."""

    asked: bool = False
    asked_at: float = 0.0
    #: when it last answered; None: never
    read_at: float | None = None
    #: answers in a row that were none, and the last one's words
    trouble: int = 0
    words: str = ""


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
        self.pace = pace
        self.pools: dict[str, PoolState] = {}
        self.jobs: dict[str, Job] = {}
        self.systems: dict[str, System] = {}
        self.backlog: e.Backlog | None = None
        self.stopped = False
        self._instance = instance
        self._utc_offset = utc - now
        self._saved = saved
        #: why there is no backlog
        self._silence = "the broker has not been asked yet"
        self._backlog_asked = False
        #: jobs whose end was asked after: a round read their notes again if it began before they are forgotten
        self._ends_asked: set[str] = set()
        self._open = False
        self._round_at = self._decided_at = now
        #: since when tasks of functions that have not been timed run, by socket
        self._running_since: dict[str, float] = {}
        self._pools_read(read, now, Effects())

    def utc(self, now: float) -> float:
        return now + self._utc_offset

    # --- the loop's side ------------------------------------------------------------------------------

    def handle(self, event: Any, now: float, out: Effects) -> None:
        _EVENTS[type(event)](self, event, now, out)

    def advance(self, now: float, out: Effects) -> None:
        waiting = self._backlog_asked or self._ends_asked or any(system.asked for system in self.systems.values())
        if self._open and not waiting:
            self._open, self._decided_at = False, now
            self._decide(now, out)
            self.stopped = self.stopped or self._idle
        elif now >= self._round_at and not waiting:
            self._begin_round(now, out)

    def wake_at(self) -> float:
        return float("inf") if self._open else self._round_at

    def told(self, name: str, now: float) -> dict[str, Any]:
        """A pool for people, as plain values; times are UTC. ``saved`` is for the next process."""
        state, offset = self.pools[name], self._utc_offset
        retry_at = state.retry_at + offset if state.retry_at else 0.0
        return {
            "pool": name, "system": state.pool.system, "decided_at": round(self._decided_at + offset, 3),
            "why": state.why, "allocations": [_told(job, offset) for job in self._of(name)],
            "saved": {"failures": state.failures, "retry_at": retry_at, "words": state.refused, "proved": state.proved,
                      "wait_s": state.wait_s},
        }  # fmt: skip

    @property
    def _idle(self) -> bool:
        """Nothing is left to see to."""
        return not self.pools and not any(job.note.pool for job in self.jobs.values())

    def _begin_round(self, now: float, out: Effects) -> None:
        self._open, self._backlog_asked = True, True
        self._round_at = now + self.pace.interval_s
        out.actions.append(e.AskBacklog())
        used = [state.pool.system for state in self.pools.values()] + [job.note.system for job in self._managed()]
        for name in dict.fromkeys(used):
            system = self.systems.setdefault(name, System())
            keys = [job.key for job in self.jobs.values() if job.note.system == name and not job.lost]
            if self._due(name, system, bool(keys), now):
                system.asked, system.asked_at = True, now
                out.actions.append(e.ReadStatus(name, keys))

    def _due(self, name: str, system: System, has_jobs: bool, now: float) -> bool:
        """One question each interval, fewer while it does not answer, or has nothing of ours."""
        unsure = any(state.unsure for state in self.pools.values() if state.pool.system == name)
        intervals = 1 if has_jobs or unsure or system.read_at is None else self.pace.rest_intervals
        intervals = max(intervals, 2 ** min(system.trouble, 5) if system.trouble else 1)
        return not system.asked_at or now >= system.asked_at + intervals * self.pace.interval_s

    def _managed(self) -> Iterable[Job]:
        return [job for job in self.jobs.values() if job.note.pool]

    def _of(self, name: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.note.pool == name]

    # --- events ---------------------------------------------------------------------------------------

    def _pools_read(self, event: e.PoolsRead, now: float, out: Effects) -> None:
        """Pools that are new, changed or gone; allocations that others have asked for."""
        for name, pool in event.pools.items():
            state = self.pools.get(name)
            if state is None:
                state = self.pools[name] = PoolState(pool)
                if name in self._saved:
                    state.restore(self._saved.pop(name), now, self.utc(now))
            elif pool != state.pool:
                # whoever changed it may have put right what was refused
                state.pool, state.failures, state.retry_at, state.refused = pool, 0, 0.0, ""
        for name in [name for name in self.pools if name not in event.pools]:
            del self.pools[name]
        for note in event.notes:
            if note.key not in self.jobs:
                since = now - max(0.0, self.utc(now) - note.at) if note.at else now
                self.jobs[note.key] = Job(note, since, joined_at=since if note.joined else None)

    def _backlog_told(self, event: e.BacklogTold, now: float, out: Effects) -> None:
        self._backlog_asked = False
        self.backlog, self._silence = event.backlog, event.words
        if event.backlog is not None and event.backlog.held:
            self.backlog, self._silence = None, event.backlog.held
        if self.backlog is None or event.backlog is None:
            return
        running = [work.socket for work in event.backlog.work if work.mean_s is None and work.granted]
        self._running_since = {socket: self._running_since.get(socket, now) for socket in running}
        for job in self.jobs.values():
            self._look_at_nodes(job, now, out)

    def _look_at_nodes(self, job: Job, now: float, out: Effects) -> None:
        """Which nodes of a job the broker has told last."""
        told = self.backlog.nodes if self.backlog else []
        job.nodes = [node for node in told if node.allocation == job.key]
        if job.nodes:
            job.nodes_at = now
        if job.ranks and job.joined_at is None:
            job.joined_at, job.note.joined, job.idle_at = now, True, None
            out.actions.append(e.NoteJob(job.note))
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
        job = Job(Note(seen.key, system, name, ranks, at=self.utc(now)), now)
        self.jobs[seen.key] = job
        out.actions.append(e.NoteJob(job.note))
        if state is not None and len(self._of(name)) + state.submitting <= state.pool.max:
            out.actions.append(e.Tell(name, f"{seen.key} was not noted and bears the mark of this pool: adopted"))
        else:
            job.ending = "nobody wants it: " + ("over --max" if state else "its pool is not there any more")
            out.actions.append(e.Tell(name, f"{seen.key} was not noted, and {job.ending}"))
        self._look_at_nodes(job, now, out)
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
            wait_s = state.failed(f"{job.key}: {words}", now, self.pace)
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
            self.jobs[event.key] = Job(Note(event.key, system, event.pool, ranks, at=self.utc(now)), now)
            out.actions.append(e.Tell(event.pool, f"{event.key} is submitted"))
        elif state is not None:
            wait_s = state.failed(event.words, now, self.pace)
            state.unsure = state.unsure or event.unsure
            out.actions.append(e.Tell(event.pool, f"{event.words}; tried again in {wait_s:.0f} s"))

    def _signalled(self, event: Signalled, now: float, out: Effects) -> None:
        self.stopped = True

    # --- decisions ------------------------------------------------------------------------------------

    def _decide(self, now: float, out: Effects) -> None:
        if self.backlog is None:
            for job in self.jobs.values():
                job.idle_at = None  # nobody knows
        for job in self._managed() if self.backlog is not None else ():
            assert self.backlog is not None
            look_whether_idle(job, self.backlog, now)
        for name in dict.fromkeys(job.note.pool for job in self._managed()):
            if name not in self.pools:
                for job in self._of(name):
                    job.ending = job.ending or "its pool was removed"
        for state in sorted(self.pools.values(), key=lambda state: (state.pool.added, state.pool.name)):
            self._judge_jobs(state, now, out)
            self._judge_pool(state, now, out)
        for job in self._managed():
            if job.ending:
                self._end(job, now, out)

    def _judge_jobs(self, state: PoolState, now: float, out: Effects) -> None:
        """Which allocations are not wanted any more."""
        pool = state.pool
        for job in self._of(pool.name):
            drains = job.nodes and not any(node.usable for node in job.nodes)
            idle = job.idle_at is not None and now - job.idle_at >= pool.idle_s
            if job.for_idleness and not idle and self.backlog is not None and not drains:
                # work came before its agents had heard of it
                job.ending, job.ending_at, job.for_idleness = "", 0.0, False
                out.actions.append(e.Tell(pool.name, f"{job.key} is kept: there is work for it again"))
        mine = [job for job in self._of(pool.name) if not job.ending and not job.lost]

        def end(job: Job, why: str) -> None:
            job.ending = why
            mine.remove(job)
            out.actions.append(e.Tell(pool.name, f"{job.key} {why}"))

        for job in list(mine):
            if job.joined_at is None and job.ran_at is not None and now - job.ran_at > self.pace.join_s:
                why = f"is ended: its ranks have not joined within {self.pace.join_s:.0f} s"
                state.failed(f"{job.key} {why}", now, self.pace)
                end(job, why)
        for job in sorted(mine, key=lambda job: (not job.waits, job.idle_at is None, -job.since)):
            if len(mine) > pool.max and (job.waits or job.idle_at is not None):
                end(job, f"is given back: --max is {pool.max}")
        idle = [job for job in mine if job.idle_at is not None and now - job.idle_at >= pool.idle_s]
        for job in sorted(idle, key=lambda job: (not job.waits, job.idle_at)):
            if len(mine) > pool.min and job.idle_at is not None:
                end(job, f"is given back: without work for {now - job.idle_at:.0f} s")
                job.for_idleness = True

    def _judge_pool(self, state: PoolState, now: float, out: Effects) -> None:
        """Whether more is asked for."""
        pool = state.pool
        demand = None
        if self.backlog is not None:
            running_s = {socket: now - since for socket, since in self._running_since.items()}
            demand = demand_of(self.backlog, pool, running_s)
        state.why = [demand.words] if demand else []
        supplies = self._supplies(now)
        wait_s = max([state.wait_s, *(expected_s(j, state.wait_s, now, self.utc(now)) for j in self._of(pool.name)
                                      if j.waits and not j.ending and not j.lost)])  # fmt: skip
        while True:
            refusal = self._hindrance(state, now)
            wanted, why = False, ""
            if not refusal:
                count = sum(not job.ending and not job.lost for job in self._of(pool.name)) + state.submitting
                if count < pool.min:
                    wanted, why = True, f"--min is {pool.min}"
                elif demand is not None:
                    wanted, why = worth(pool, demand, supplies, wait_s)
            if not wanted:
                state.why.append(f"asks for no more: {refusal or why}")
                return
            state.submitting += 1
            state.why.append(f"asks for one more: {why}")
            out.actions += [e.Tell(pool.name, f"asks for one more: {why}"), e.Submit(pool)]
            supplies.append(Supply(pool.ranks, wait_s, wait_s + pool.usable_s))

    def _hindrance(self, state: PoolState, now: float) -> str:
        """Why nothing may be asked for, whatever the backlog; empty: it may."""
        pool = state.pool
        system = self.systems.get(pool.system, System())
        jobs = self._of(pool.name)
        if pool.paused:
            return "it is paused (`pyfi alloc resume` ends that)"
        if system.trouble:
            return f"{pool.system} does not answer: {system.words}"
        if system.read_at is None:
            return f"{pool.system} has not been asked yet"
        if self.backlog is None:
            return self._silence
        if now < state.retry_at:
            times = f"{state.failures} times in a row, last" if state.failures > 1 else "once"
            return f"it failed {times} with: {state.refused}; tried again in {state.retry_at - now:.0f} s"
        if state.unsure:
            return "nobody answered the last submission, which is looked for in the queue first"
        if len(jobs) + state.submitting >= pool.max:
            return f"--max is {pool.max}"
        if not state.proved and (state.submitting or any(not job.ending for job in jobs)):
            return "one at a time until the first has joined"
        return ""

    def _supplies(self, now: float) -> list[Supply]:
        """Ranks that are there or on the way, of all pools and of none."""
        found = []
        for job in self.jobs.values():
            state = self.pools.get(job.note.pool)
            found.append(supply_of(job, state.pool if state else None, state, now, self.utc(now), self.pace))
        for state in self.pools.values():
            found += [Supply(state.pool.ranks, state.wait_s, state.wait_s + state.pool.usable_s)] * state.submitting
        others = [n for n in self.backlog.nodes if n.usable and n.allocation not in self.jobs] if self.backlog else []
        return [*found, Supply(sum(node.ranks for node in others))]

    def _end(self, job: Job, now: float, out: Effects) -> None:
        """Ask for the end of a job, and again while it does not come: its agents where there are some."""
        if job.seen is None or job.lost or (job.ending_at and now < job.ending_at + self.pace.end_s):
            return
        if self.backlog is None and not job.waits:
            return  # nobody knows what runs there
        if job.nodes:
            if any(node.usable for node in job.nodes) or not job.ending_at:
                job.ending_at = now
                out.actions.append(e.GiveBack(job.key))
        elif job.joined_at is None or now - max(job.nodes_at, job.ending_at) >= self.pace.end_s:
            job.ending_at = now
            out.actions.append(e.Cancel(job.note.system, job.key, only_waiting=job.waits))


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
