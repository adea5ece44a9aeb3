"""What must hold after every run: the promise, as a program."""

from __future__ import annotations

from pyfi_hpc.model.states import FIRST_FINAL
from pyfi_hpc.sim.world import World


def check(world: World) -> None:
    """Every admitted task is final once; the live broker holds nothing that should be gone.

    Raises
    ------
    AssertionError
        Naming the job and task.
    """
    store = world.store
    for batch_id, batch in store.batches.items():
        settled = bytearray(batch.count)
        for outcome in store.outcomes.get(batch_id, {}).values():
            assert min(outcome.states) >= FIRST_FINAL, f"{outcome} is not final"
            for offset in range(outcome.lo, outcome.lo + outcome.count):
                assert not settled[offset], f"task {batch.job}.{batch.first + offset} was settled twice"
                settled[offset] = 1
        for offset, done in enumerate(settled):
            assert done, f"task {batch.job}.{batch.first + offset} is not final"
    if world.broker is not None:
        _check_idle(world)


def _check_idle(world: World) -> None:
    assert world.broker is not None
    s = world.broker.machine.state
    assert s.book.open_count == 0 and not s.book.jobs and not s.book.batches, "jobs are left in memory"
    assert s.queue.ready == 0, f"{s.queue.ready} tasks are left in the queue"
    assert not s.nodes.grants, "grants are left"
    assert all(node.outstanding == 0 for node in s.nodes.by_name.values())
    assert all(count == 0 for count in s.queue.running.values()), s.queue.running
    assert s.payload_bytes == 0, f"{s.payload_bytes} bytes of payload are left"
    assert not s.graph.values and not s.graph.users and not s.graph.readers
