"""Decisions about elastic allocations: what is not wanted any more, what is asked for, and why not more."""

from __future__ import annotations

from pyfi_hpc.core.demand import Supply, demand_of, worth
from pyfi_hpc.core.pools import Job, PoolState, State, System, expected_s, look_whether_idle, supply_of
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.effects import Effects


def decide(s: State, now: float, out: Effects) -> None:
    """Once a round, when all that was asked has been answered."""
    if s.backlog is None:
        for job in s.jobs.values():
            job.idle_at = None  # nobody knows
    else:
        for name, state in s.pools.items():
            jobs = s.of(name)
            if any(node.usable and node.ranks for job in jobs for node in job.nodes):
                state.cannot |= {work.key for work in s.backlog.work if work.never}
            may_come = state.may_come(s.backlog)
            for job in jobs:
                look_whether_idle(job, may_come, now)
    for name in dict.fromkeys(job.note.pool for job in s.managed()):
        if name not in s.pools:
            for job in s.of(name):
                job.ending = job.ending or "its pool was removed"
    for state in sorted(s.pools.values(), key=lambda state: (state.pool.added, state.pool.name)):
        _judge_jobs(s, state, now, out)
        _judge_pool(s, state, now, out)
    for job in s.managed():
        if job.ending:
            _end(s, job, now, out)


def _judge_jobs(s: State, state: PoolState, now: float, out: Effects) -> None:
    """Which allocations are not wanted any more."""
    pool = state.pool
    for job in s.of(pool.name):
        drains = job.nodes and not any(node.usable for node in job.nodes)
        still = job.idle_at is not None and now - job.idle_at >= pool.idle_s
        if job.for_idleness and not still and s.backlog is not None and not drains:
            # work came before its agents had heard of it
            job.ending, job.ending_at, job.for_idleness = "", 0.0, False
            out.actions.append(e.Tell(pool.name, f"{job.key} is kept: there is work for it again"))
    mine = [job for job in s.of(pool.name) if not job.ending and not job.lost]

    def end(job: Job, why: str) -> None:
        job.ending = why
        mine.remove(job)
        out.actions.append(e.Tell(pool.name, f"{job.key} {why}"))

    for job in list(mine):
        if job.joined_at is None and job.ran_at is not None and now - job.ran_at > s.pace.join_s:
            why = f"is ended: its ranks have not joined within {s.pace.join_s:.0f} s"
            state.failed(f"{job.key} {why}", now, s.pace)
            end(job, why)
    for job in sorted(mine, key=lambda job: (not job.waits, job.idle_at is None, -job.since)):
        if len(mine) > pool.max and (job.waits or job.idle_at is not None):
            end(job, f"is given back: --max is {pool.max}")
    idle = [job for job in mine if job.idle_at is not None and now - job.idle_at >= pool.idle_s]
    for job in sorted(idle, key=lambda job: (not job.waits, job.idle_at)):
        if len(mine) > pool.min and job.idle_at is not None:
            end(job, f"is given back: without work for {now - job.idle_at:.0f} s")
            job.for_idleness = True


def _judge_pool(s: State, state: PoolState, now: float, out: Effects) -> None:
    """Whether more is asked for."""
    pool = state.pool
    demand = None
    if s.backlog is not None:
        running_s = {socket: now - since for socket, since in s.running_since.items()}
        demand = demand_of(s.backlog, pool, running_s, state.cannot)
    state.why = [demand.words] if demand else []
    supplies = _supplies(s, now)
    wait_s = max([state.wait_s, *(expected_s(j, state.wait_s, now, s.utc(now)) for j in s.of(pool.name)
                                  if j.waits and not j.ending and not j.lost)])  # fmt: skip
    while True:
        refusal = _hindrance(s, state, now)
        wanted, why = False, ""
        if not refusal:
            count = sum(not job.ending and not job.lost for job in s.of(pool.name)) + state.submitting
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


def _hindrance(s: State, state: PoolState, now: float) -> str:
    """Why nothing may be asked for, whatever the backlog; empty: it may."""
    pool = state.pool
    system = s.systems.get(pool.system, System())
    jobs = s.of(pool.name)
    if pool.paused:
        return "it is paused (`pyfi alloc resume` ends that)"
    if system.trouble:
        return f"{pool.system} does not answer: {system.words}"
    if system.read_at is None:
        return f"{pool.system} has not been asked yet"
    if s.backlog is None:
        return s.silence
    if now < state.retry_at:
        times = f"{state.failures} times in a row, last" if state.failures > 1 else "once"
        return f"it failed {times} with: {state.refused}; tried again in {state.retry_at - now:.0f} s"
    if state.unsure:
        return "nobody answered the last submission, which is looked for in the queue first"
    if len(jobs) + state.submitting >= pool.max:
        return f"--max is {pool.max}"
    if not state.proved and (state.submitting or any(not j.ending and j.joined_at is None for j in jobs)):
        return "one at a time until the first has joined"
    return ""


def _supplies(s: State, now: float) -> list[Supply]:
    """Ranks that are there or on the way, of all pools and of none."""
    found = []
    for job in s.jobs.values():
        state = s.pools.get(job.note.pool)
        found.append(supply_of(job, state.pool if state else None, state, now, s.utc(now), s.pace))
    for state in s.pools.values():
        found += [Supply(state.pool.ranks, state.wait_s, state.wait_s + state.pool.usable_s)] * state.submitting
    others = [n for n in s.backlog.nodes if n.usable and n.allocation not in s.jobs] if s.backlog else []
    return [*found, Supply(sum(node.ranks for node in others))]


def _end(s: State, job: Job, now: float, out: Effects) -> None:
    """Ask for the end of a job, and again while it does not come: its agents where there are some."""
    if job.seen is None or job.lost or (job.ending_at and now < job.ending_at + s.pace.end_s):
        return
    if s.backlog is None and not job.waits:
        return  # nobody knows what runs there
    if job.nodes:
        if any(node.usable for node in job.nodes) or not job.ending_at:
            job.ending_at = now
            out.actions.append(e.GiveBack(job.key))
    elif job.joined_at is None or now - max(job.nodes_at, job.ending_at) >= s.pace.end_s:
        job.ending_at = now
        out.actions.append(e.Cancel(job.note.system, job.key, only_waiting=job.waits))
