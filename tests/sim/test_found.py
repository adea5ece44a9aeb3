"""Defects that random runs found, each as a short story that fails without its mending."""

from __future__ import annotations

from pyfi_hpc.model.effects import ReadPayloads
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster, Plan


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


def test_an_agent_whose_last_rank_died_sleeps_until_it_starts_others() -> None:
    """It waits a moment in case others of the step follow; it must not ask to be woken at once meanwhile."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=2))
    world.run_for(2.0)
    agent = world.agents["n1"]
    for number in (0, 1):
        agent.kill_rank(number)
        world.run_for(0.1)
    before = world.steps
    world.run_for(0.19)
    assert world.steps - before < 20
    world.run_for(2.0)
    assert sorted(agent.ranks) == [0, 1]


def test_a_replacement_that_never_comes_holds_up_no_other() -> None:
    """One rank's replacement was asked for and died at its start; another rank dies: it is replaced at once."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=3))
    world.run_for(2.0)
    agent = world.agents["n1"]
    world.plan.rank_start_s = 1e9  # the replacement does not come
    agent.kill_rank(0)
    world.run_for(1.0)
    world.plan.rank_start_s = 0.5
    agent.kill_rank(1)
    world.run_for(1.0)
    assert 1 in agent.ranks


def test_payloads_that_are_being_read_are_not_asked_for_again() -> None:
    """The queue's payloads are in the ledger only: each is read once, however many rounds pass until it comes."""
    world = Cluster(limits=Limits(queued_payload_bytes_max=0))
    world.disk.commit_s = 0.2  # reads are slow too
    world.run_for(2.0)
    client = world.join()
    client.submit_batches([["0.001"] * 5] * 10, [b""] * 10)
    world.run(lambda: len(client.results) == 50)
    assert world.broker is not None
    read = [batch for query in world.broker.disk.read if isinstance(query, ReadPayloads) for batch in query.batches]
    assert sorted(read) == list(range(1, 11))
    world.run_for(2.0)
    check(world)


def test_a_draining_agent_sleeps_while_a_rank_does_not_answer() -> None:
    """A rank with a line hangs, others idle, the node drains: nothing is evened out, so nothing is waited for."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=2))
    client = world.join()
    client.submit(["0.001"] * 50)
    world.run(lambda: len(client.results) == 50)
    client.submit(["0.03"] * 4)
    agent = world.agents["n1"]
    world.run(lambda: any(len(rank.flights) > 1 for rank in agent.machine._ranks.values()))
    hung = next(rank.number for rank in agent.machine._ranks.values() if len(rank.flights) > 1)
    agent.ranks[hung].freeze()
    world.run_for(0.2)
    world.drain("n1")
    before = world.steps
    world.run_for(2.0)
    assert world.steps - before < 100
