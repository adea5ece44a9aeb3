"""Defects that random runs found, each as a short story that fails without its mending."""

from __future__ import annotations

from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster


def test_a_job_that_paused_between_batches_ends_after_a_restart() -> None:
    """All so far is final, the last batch never comes, the broker starts again: the job is closed all the same."""
    world = Cluster()
    client = world.join()
    client.submit_batches([["0.01"] * 3], [b""], last=False)
    world.run(lambda: len(client.results) == 3)
    world.run_for(0.1)
    client.kill()
    world.kill_broker()
    world.start_broker()
    world.run(lambda: any(batch.last for batch in world.store.batches.values()), 100.0)
    world.run_for(1.0)
    check(world)
