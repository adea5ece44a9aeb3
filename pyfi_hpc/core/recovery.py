"""A broker that starts: what the ledger holds of unfinished work becomes its state.

For a while nothing is queued: agents say hello, and what they still run is not started again (core/joining.py).
"""

from __future__ import annotations

from pyfi_hpc.core import admit, joining
from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import GrantId, JobId
from pyfi_hpc.model.records import BatchClosed, Recovered


def begin(s: State, recovered: Recovered, now: float) -> Effects:
    """Apply what the ledger holds; ready tasks wait a moment for agents that still run them. Returns what to read."""
    unready = Effects()
    for records in (recovered.jobs, recovered.holds, recovered.batches, recovered.outcomes, recovered.attempts):
        for record in records:
            s.book.apply(record)
    for record in recovered.batches:
        batch = s.book.batches[record.batch]
        if batch.open and record.edges:
            s.graph.admit(batch, edges_of(record.edges, record.job), unready)
        elif not batch.open and (batch.job.closed or batch is not batch.job.batches[-1]):
            s.book.apply(BatchClosed(record.batch))
    for job in s.book.jobs.values():
        if not job.closed:
            s.orphan(job.id, now)
    if s.book.open_count:
        s.recover_until = now + s.limits.recover_s
        s.queue.held = True
        s.made_by = _makers(s, recovered)
    return unready


def end(s: State, out: Effects) -> None:
    """Who has not said hello does not run anything any more: the rest is ready."""
    s.recover_until = 0.0
    s.queue.held = False
    s.made_by = {}
    joining.dissolve(s, out)
    for batch in s.book.batches.values():
        admit.enqueue_pending(s, batch)


def _makers(s: State, recovered: Recovered) -> dict[tuple[JobId, int], GrantId]:
    """Under which grants results were made that unfinished tasks take."""
    made: dict[tuple[JobId, int], GrantId] = {}
    if not s.graph.users:
        return made
    # not from the book: it has forgotten jobs of which all is final
    firsts = {batch.batch: batch.first for batch in recovered.batches}
    for outcome in recovered.outcomes:
        first = firsts[outcome.batch] + outcome.lo
        for index in range(first, first + outcome.count):
            if (outcome.job, index) in s.graph.users:
                made[outcome.job, index] = outcome.grant
    return made
