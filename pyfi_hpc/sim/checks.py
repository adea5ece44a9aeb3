"""What must hold: the promise, as a program. Each check that fails names its task.

look     between steps: the broker's tables agree with each other and with the ledger, nothing is over its limit
check    at the end: all that was acknowledged is final, once, and nothing is left in memory
"""

from __future__ import annotations

from zlib import crc32

from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.core.jobs import Batch, JobBook
from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model.ids import JobId
from pyfi_hpc.model.states import FIRST_FINAL, TaskState
from pyfi_hpc.sim.brokers import BrokerHost
from pyfi_hpc.sim.cluster import Cluster
from pyfi_hpc.sim.failure import Violation, expect

_RUNNING, _PENDING = TaskState.RUNNING, TaskState.PENDING
#: states that the ledger does not know
_OPEN = bytes([0, 0, 0, *range(3, 256)])


def check(cluster: Cluster) -> None:
    """Every admitted task is final once; the live broker holds nothing that should be gone.

    Raises
    ------
    Violation
        Naming the task.
    """
    cluster.audit.follow()
    for task in cluster.audit.open_tasks():
        raise Violation("it was accepted and is not final", task)
    for client in cluster.clients:
        for (key, number), job in client.accepted.items():
            known = cluster.store.jobs.get(job)  # type: ignore[call-overload]
            holds = known is not None and known.key == key
            expect(holds, f"batch {number} was acknowledged and is not there", (job, 0))
        for (job, index), (state, data) in client.results.items():
            expect(cluster.audit.state(job, index) == state, f"the client was told {state}", (job, index))
            if state == TaskState.COMPLETED:
                expect(data.startswith(b"%d.%d by " % (job, index)), f"its result is {data[:40]!r}", (job, index))
    check_descent(cluster)
    if cluster.broker is not None:
        _check_idle(cluster.broker)
        replay(cluster)


def check_descent(cluster: Cluster) -> None:
    """What took results was made from those that the ledger has, not from those of attempts that did not count."""
    ledger = MemoryLedger(cluster.store)
    for batch in cluster.store.batches.values():
        slots: dict[int, list[tuple[JobId, int]]] = {}
        for offset, _, producer, index in edges_of(batch.edges, batch.job) if batch.edges else ():
            slots.setdefault(offset, []).append((JobId(producer), index))
        for offset, keys in slots.items():
            task = (batch.job, batch.first + offset)
            if cluster.audit.state(*task) == TaskState.COMPLETED:
                values = ledger.values([task, *keys])
                made = values[task][1]
                told = b" of %08x" % crc32(b" ".join(values[key][1] for key in keys))
                expect(made.endswith(told), f"its result {made!r} is not made{told.decode()}", task)


def _check_idle(broker: BrokerHost) -> None:
    s = broker.machine.state
    left = next(iter(s.book.jobs), 0)
    expect(not s.book.jobs and not s.book.batches and s.book.open_count == 0, "jobs are left in memory", (left, 0))
    expect(s.queue.ready == 0, f"{s.queue.ready} tasks are left in the queue")
    expect(not s.nodes.grants, f"{len(s.nodes.grants)} grants are left")
    expect(all(node.outstanding == 0 and node.outstanding_bytes == 0 for node in s.nodes.by_name.values()), "credit")
    expect(all(count == 0 for count in s.queue.running.values()), f"running per socket: {s.queue.running}")
    expect(s.payload_bytes == 0, f"{s.payload_bytes} bytes of payload are left")
    expect(not s.graph.values and not s.graph.users and not (s.graph.readers or s.graph.sizes), "results are left")
    expect(s.graph.value_bytes == 0, f"{s.graph.value_bytes} bytes of results are left")
    expect(not s.looked_up and not s.to_wake, "look-ups are left")


def look(cluster: Cluster) -> None:
    """Between steps, while anything may be under way. Cost: a few passes over the open tasks."""
    broker = cluster.broker
    if broker is None or broker.machine.stopped:
        return
    s = broker.machine.state
    leases = _look_at_leases(broker)
    ready = 0
    for batch in s.book.batches.values():
        open_tasks = sum(batch.states.count(state) for state in range(FIRST_FINAL))
        task = (batch.job.id, batch.first)
        expect(batch.open == open_tasks, f"batch {batch.id} counts {batch.open} open tasks of {open_tasks}", task)
        running = batch.states.count(_RUNNING)
        expect(running <= leases.get(batch.id, 0), f"{running} tasks of batch {batch.id} run without a lease", task)
        ready += 0 if batch.job.on_hold else batch.states.count(_PENDING)
    if not s.queue.held:
        expect(s.queue.ready == ready, f"the queue counts {s.queue.ready} ready tasks of {ready}")
    for job in s.book.jobs.values():
        owed = sum(leases.get(batch.id, 0) for batch in job.batches)
        expect(job.granted >= owed, f"job {job.id} counts {job.granted} granted tasks of {owed}")
        expect(not job.at_once or job.granted <= job.at_once, f"{job.granted} of job {job.id} run at once")
    expect(s.book.open_count == sum(batch.open for batch in s.book.batches.values()), "open tasks are miscounted")
    held = sum(len(b.payload) + len(b.offsets or b"") for b in s.book.batches.values() if b.payload is not None)
    expect(s.payload_bytes == held, f"{s.payload_bytes} bytes of payload are counted, {held} are there")
    limits = s.limits
    largest = max((len(b.payload or b"") + len(b.offsets or b"") for b in s.book.batches.values()), default=0)
    # one batch may go over it, and what was asked for while there was room: core/queue.py asks for 64
    expect(held <= limits.queued_payload_bytes_max + 64 * largest, f"{held} bytes of payload in the queue")
    for client in s.clients.by_peer.values():
        window = client.pushed_bytes - client.consumed_bytes
        expect(window <= limits.client_window_bytes_max or client.consumed_bytes == 0, f"window of {client.name}")
    expect(s.graph.value_bytes == sum(len(v.data) for v in s.graph.values.values()), "kept results are miscounted")
    expect(s.graph.value_bytes <= limits.value_bytes_max, f"{s.graph.value_bytes} bytes of results are kept")


def _look_at_leases(broker: BrokerHost) -> dict[int, int]:
    """One live lease per task, and credits that add up; leased tasks by batch."""
    s = broker.machine.state
    leases: dict[int, int] = {}
    leased: dict[int, bytearray] = {}
    for node in s.nodes.by_name.values():
        owed = size = 0
        for grant in node.grants.values():
            expect(s.nodes.grants.get(grant.id) is grant, f"grant {grant.id} of {node.name} is not in the table")
            expect(grant.left.count(1) == grant.open, f"grant {grant.id} counts {grant.open}")
            owed += grant.open
            size += grant.size
            seen = leased.setdefault(grant.batch.id, bytearray(grant.batch.count))
            for at, left in enumerate(grant.left):
                if left and grant.batch.states[grant.lo + at] == _RUNNING:
                    task = (grant.batch.job.id, grant.batch.first + grant.lo + at)
                    expect(not seen[grant.lo + at] or grant.gang is not None, "two leases are live", task)
                    seen[grant.lo + at] = 1
        special = [grant for grant in node.grants.values() if grant.needs is not None]
        given = (sum(g.open for g in special), sum(g.open * g.members * g.width for g in special))
        counted = (node.stock.tasks, node.stock.ranks)
        expect(given == counted, f"{node.name} has given {given} to tasks with needs, counted {counted}")
        expect(owed == node.outstanding, f"{node.name} owes {owed}, counted {node.outstanding}")
        expect(size == node.outstanding_bytes, f"{node.name} holds {size} bytes, counted {node.outstanding_bytes}")
        room = broker.cluster.limits.capacity_per_rank_max * max(1, node.rank_count) + s.limits.grant_tasks_max
        expect(node.runnable <= room, f"{node.name} holds {node.runnable} tasks")
        # what it follows may be settled before others: then it is runnable beside what the node wants to hold
        expect(node.followers <= room, f"{node.name} holds {node.followers} followers")
        following = sum(
            _follows(grant.batch, grant.lo + at) for grant in node.grants.values() for at, left in enumerate(grant.left)
            if left
        )  # fmt: skip
        expect(following == node.followers, f"{node.name} counts {node.followers} followers of {following}")
    for batch, seen in leased.items():
        leases[batch] = seen.count(1)
    return leases


def _follows(batch: Batch, offset: int) -> bool:
    need = batch.waiting.get(offset) if batch.waiting else None
    return need is not None and bool(need.missing) and batch.states[offset] == _RUNNING


def replay(cluster: Cluster) -> None:
    """The ledger's log, applied from the start, gives the live broker's hard state."""
    broker = cluster.broker
    if broker is None or cluster.store.epoch != broker.disk.ledger.epoch:
        return
    book = JobBook(1 << 30)
    for record in cluster.store.log + broker.pending:
        book.apply(record)
    live = broker.machine.state.book
    for job_id, job in live.jobs.items():
        same = book.jobs.get(job_id)
        if same is None:
            raise Violation("the log knows no such open job", (job_id, 0))
        told = (job.count, job.open, job.next_number, job.closed, job.key, job.on_hold)
        log = (same.count, same.open, same.next_number, same.closed, same.key, same.on_hold)
        expect(told == log, f"{told} live, {log} by the log", (job_id, 0))
    for job_id, job in book.jobs.items():
        # between two batches of a job nothing of it is open: a broker that starts then need not know it
        expect(job.open == 0 or job_id in live.jobs, "the broker has forgotten an open job", (job_id, 0))
    for batch_id, batch in live.batches.items():
        _same_batch(batch, book.batches.get(batch_id))
    for batch_id, batch in book.batches.items():
        task = (batch.job.id, batch.first)
        expect(batch.open == 0 or batch_id in live.batches, "the broker has forgotten a batch", task)


def _same_batch(live: Batch, replayed: Batch | None) -> None:
    task = (live.job.id, live.first)
    if replayed is None:
        expect(live.open == 0, "the log has closed its batch", task)
        return
    states, same = live.states.translate(_OPEN), replayed.states.translate(_OPEN)
    for offset, (state, other) in enumerate(zip(states, same, strict=True)):
        expect(state == other, f"state {state} live, {other} by the log", (live.job.id, live.first + offset))
    for offset, trouble in (replayed.trouble or {}).items():
        if states[offset] < FIRST_FINAL:
            mine = (live.trouble or {}).get(offset)
            expect(mine == trouble, f"{mine} live, {trouble} by the log", (live.job.id, live.first + offset))
