"""Walltimes in the imagined cluster: what ends of allocations cost, and a loop that is longer than any of them."""

from __future__ import annotations

import pytest

from pyfi_hpc.model.records import AttemptFailed
from pyfi_hpc.model.states import Cause, TaskState
from pyfi_hpc.sim import walltime
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster, Plan


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_less_than_two_percent_are_lost(seed: int) -> None:
    """3,264 tasks of six functions, none of which says how long it takes, to a broker that knows nothing yet."""
    found = walltime.run(seed)
    assert found.lost_share < 0.02, walltime.told(found)
    # little is bought with idle ranks: the last allocations are not full, as the work ends
    assert found.worked_s / found.granted_s > 0.65, walltime.told(found)


def test_much_is_lost_where_nobody_knows_the_end() -> None:
    """The same work on agents that do not know when their allocations end: the rule is what saves it."""
    assert walltime.Run(0, told=False).go().lost_share > 0.04


def test_a_loop_outlives_three_allocations() -> None:
    """60 s of work on one rank, allocations of 30 s after each other, a restart of the broker between: one answer."""
    world = Cluster(0, Plan(nodes=0, ranks_per_node=1, slurm=True))
    client = world.join()
    client.submit([">60"])
    for number in range(1, 5):
        world.after(32.0 * (number - 1), world.start_allocation, f"n{number}", f"{number}", 30.0, 2.0, 1.0)
    world.after(31.0, world.kill_broker)
    world.after(31.5, world.start_broker)
    world.run(lambda: len(client.results) == 1, 200.0)
    world.run_for(1.0)
    check(world)
    ((state, _),) = client.results.values()
    assert state == TaskState.COMPLETED
    ends = [record for record in world.store.log if isinstance(record, AttemptFailed)]
    assert [record.cause for record in ends] == [Cause.CONTINUED] * 2
    left = [float(record.error) for record in ends]
    assert 60 > left[0] > left[1] > 0 and world.cut_s == 0.0
    assert len(world.executed) == 3


def test_nothing_is_cut_of_what_is_known() -> None:
    """18 tasks of 2 s, some of them while a node of 12 s is there: it takes what can end."""
    world = Cluster(0, Plan(nodes=0, ranks_per_node=1, slurm=True))
    world.start_agent("n0", "100")
    client = world.join()
    client.submit(["2"] * 6)
    world.run(lambda: len(client.results) == 6, 60.0)
    world.start_allocation("n1", "1", 12.0, 1.0, 1.0)
    world.run_for(2.0)
    client.submit(["2"] * 12)
    world.run(lambda: len(client.results) == 18, 60.0)
    assert world.cut_s == 0.0
    world.run_for(10.0)
    check(world)
