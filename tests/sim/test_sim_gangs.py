"""Tasks of several ranks in the simulator: under faults, and how long they wait while the ranks stay busy."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyfi_hpc.core import gangs
from pyfi_hpc.model import terms
from pyfi_hpc.sim import run, workload
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan


def in_one_world(orders: dict[Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have these orders, and several nodes whose ranks are one MPI world."""
    monkeypatch.setattr(workload, "ORDERS", orders)
    plan = run._plan

    def one_world(chance: random.Random) -> Plan:
        made = plan(chance)
        made.one_world, made.nodes = True, max(2, made.nodes)
        return made

    monkeypatch.setattr(run, "_plan", one_world)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_gangs_under_faults(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds over several nodes, mostly gangs of which some fail: all checks of the simulator hold."""
    orders = {workload.a_gang: 6, workload.a_map: 1, workload.a_cancel: 1}
    in_one_world(orders, monkeypatch)
    for seed in range(first, first + 10):
        run.run_seed(seed)


def a_step(client: ClientHost, chance: random.Random) -> None:
    """Tasks with a step over several ranks, of which some fail, take too long, or are ended for others."""
    ranks = chance.randrange(1, 2 * client.world.plan.ranks_per_node + 1)
    needs = terms.encode(terms.Terms(ranks=ranks, step=True, spread=chance.random() < 0.5))
    payloads = [workload.payload(chance) for _ in range(chance.randrange(1, 6))]
    limit_s, preemptible = chance.choice([0.0, 0.0, 0.3]), chance.random() < 0.3
    client.submit(
        payloads, terms=needs, retries=chance.randrange(2), priority=chance.randrange(-1, 2), time_limit_s=limit_s,
        preemptible=preemptible,
    )  # fmt: skip


@pytest.mark.parametrize("first", range(100, 160, 10))
def test_steps_under_faults(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with steps, whose ranks on other nodes run nothing: in the end all of them are given back."""
    orders = {a_step: 6, workload.a_gang: 1, workload.a_map: 1, workload.a_cancel: 2}
    in_one_world(orders, monkeypatch)
    checked = run.check

    def given_back(cluster: Cluster) -> None:
        checked(cluster)
        for agent in cluster.agents.values():
            placer = agent.machine._bundler._placer
            assert (placer.taken(), placer.tasks()) == (0, 0), agent.name

    monkeypatch.setattr(run, "check", given_back)
    for seed in range(first, first + 10):
        run.run_seed(seed)


def test_a_broken_world_is_renewed() -> None:
    """A gang whose rank dies takes the world along: it is started anew for the next try, which completes."""
    cluster = Cluster(plan=Plan(nodes=2, ranks_per_node=2, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    needs = terms.encode(terms.Terms(ranks=4))
    client.submit(["@!0.05"], terms=needs)
    cluster.run_for(20.0)
    assert client.satisfied
    assert cluster.audit.state(1, 0) == 3
    assert cluster.broker is not None
    broker = cluster.broker.machine.state
    assert gangs.may_ever(broker, terms.decode(needs))


@pytest.mark.parametrize("step", [False, True])
def test_a_gang_on_two_nodes_outlives_its_broker(step: bool) -> None:
    """It runs when the broker is killed, and goes on under the next one, to which both nodes come back."""
    cluster = Cluster(3, Plan(nodes=2, ranks_per_node=2, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(["4"], terms=terms.encode(terms.Terms(ranks=4, step=step)))
    cluster.run_for(1.0)
    begun = list(cluster.executed)
    assert len(begun) == 1  # of its leader
    cluster.kill_broker()
    cluster.start_broker()
    cluster.run_for(1.0)
    cluster.run(lambda: client.satisfied, 20.0)
    assert cluster.executed == begun
    assert cluster.now < 9.0
    check(cluster)


def test_a_gang_whose_node_does_not_come_back_to_the_next_broker_runs_again() -> None:
    """One of its nodes dies with the broker: what the other one still runs is ended, uncharged."""
    cluster = Cluster(3, Plan(nodes=3, ranks_per_node=2, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(["4"], terms=terms.encode(terms.Terms(ranks=4)))
    cluster.run_for(1.0)
    assert len(cluster.executed) == 1
    gone = next(name for name, agent in cluster.agents.items() if any(rank.busy for rank in agent.ranks.values()))
    cluster.kill_broker()
    cluster.kill_agent(gone)
    cluster.count("an agent dies")
    cluster.start_broker()
    cluster.run(lambda: client.satisfied, 60.0)
    assert [attempt for _, _, attempt, _ in cluster.executed] == [1, 1]
    check(cluster)


@pytest.mark.parametrize("spread", [False, True])
def test_a_gang_lies_packed_or_spread(spread: bool) -> None:
    """Two ranks of a world of two nodes with two ranks each: on one node, or on both."""
    cluster = Cluster(plan=Plan(nodes=2, ranks_per_node=2, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(["0.5"], terms=terms.encode(terms.Terms(ranks=2, spread=spread)))
    cluster.run_for(0.3)
    assert cluster.broker is not None
    nodes = cluster.broker.machine.state.nodes.by_name.values()
    assert sorted(node.stock.ranks for node in nodes) == ([1, 1] if spread else [0, 2])


def busy_share(cluster: Cluster, seconds: float) -> float:
    """The part of the time in which ranks work, looked at each 10 ms."""
    ranks = busy = 0
    for _ in range(int(seconds * 100)):
        cluster.run_for(0.01)
        for agent in cluster.agents.values():
            ranks += len(agent.ranks)
            busy += sum(rank.busy for rank in agent.ranks.values())
    return busy / ranks


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_large_gang_waits_no_longer_than_the_longest_task_while_ranks_work(nodes: int) -> None:
    """Sixteen ranks under a full queue of short and longer tasks; then a gang of all of them. It starts within the
    longest task that ran, and a second; from its submission to its start the ranks are busy for 90 % of the time."""
    cluster = Cluster(3, plan=Plan(nodes=nodes, ranks_per_node=16 // nodes, one_world=True))
    client, chance = cluster.join(), random.Random(7)
    cluster.run_for(2.0)
    client.submit(["0.05"] * 30000, socket="sample.short")
    client.submit([chance.choice(["0.2", "0.5", "2"]) for _ in range(400)])
    cluster.run_for(10.0)
    begun = cluster.now
    client.submit(["1"], terms=terms.encode(terms.Terms(ranks=16)))
    job = max(cluster.store.jobs, default=0) + 1
    busy: list[float] = []
    while not any(task[0] == job for task in cluster.executed) and cluster.now < begun + 20.0:
        busy.append(busy_share(cluster, 0.05))
    assert cluster.now - begun < 2.0 + 1.0
    assert sum(busy) / len(busy) > 0.9


def started_after(cluster: Cluster, job: int, within_s: float) -> float:
    """How long it takes until the first task of a job runs; no longer than this is waited."""
    begun = cluster.now
    while not any(task[0] == job for task in cluster.executed) and cluster.now < begun + within_s:
        cluster.run_for(0.01)
    return cluster.now - begun


def test_a_gang_beside_tasks_of_one_function_whose_lengths_differ_a_hundred_times() -> None:
    """A full queue of lognormal durations, then a gang of half of all ranks. It waits no longer than the longest of
    them takes, and a second, though nobody knows how long one takes; and the ranks work."""
    cluster = Cluster(5, plan=Plan(nodes=2, ranks_per_node=8, one_world=True))
    client, chance = cluster.join(), random.Random(11)
    cluster.run_for(2.0)
    lengths = [min(60.0, chance.lognormvariate(0.0, 1.3)) for _ in range(1200)]
    client.submit([f"{seconds:.3f}" for seconds in lengths])
    cluster.run_for(30.0)
    job, begun = max(cluster.store.jobs, default=0) + 1, cluster.now
    client.submit(["1"], terms=terms.encode(terms.Terms(ranks=8)))
    busy: list[float] = []
    while not any(task[0] == job for task in cluster.executed) and cluster.now < begun + 60.0:
        busy.append(busy_share(cluster, 0.05))
    longest = max(lengths[index] for _, index, *_ in cluster.executed)
    assert cluster.now - begun < longest + 1.0
    assert sum(busy) / len(busy) > 0.85


def test_small_gangs_do_not_hold_up_a_large_one() -> None:
    """Gangs of two ranks without end, then one of all ranks: it is the next, and they wait for it."""
    cluster = Cluster(plan=Plan(nodes=2, ranks_per_node=4, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(["0.3", "0.5"] * 200, terms=terms.encode(terms.Terms(ranks=2)))
    cluster.run_for(5.0)
    job = max(cluster.store.jobs, default=0) + 1
    client.submit(["0.1"], terms=terms.encode(terms.Terms(ranks=8)))
    assert started_after(cluster, job, 10.0) < 2.0


def test_a_gang_takes_ranks_that_are_idle_on_whatever_node() -> None:
    """Two nodes of four ranks, of which two run something long: a gang of four starts at once on what is left."""
    cluster = Cluster(plan=Plan(nodes=2, ranks_per_node=4, one_world=True))
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(["20"] * 4)
    cluster.run_for(1.0)
    job = max(cluster.store.jobs, default=0) + 1
    client.submit(["0.1"], terms=terms.encode(terms.Terms(ranks=4)))
    assert started_after(cluster, job, 5.0) < 0.5


@pytest.mark.parametrize(("stream", "wide"), [("cores=2", "cores=4"), ("ranks=2", "exclusive"), ("cores=2", "ranks=8")])
def test_a_wide_task_gets_its_turn_beside_an_endless_stream_of_narrower_ones(stream: str, wide: str) -> None:
    """Two nodes of four ranks, full of tasks that each give back their part at another time. What needs all of a node
    waits for what runs, no longer, though there is always a narrower one that would fit sooner."""
    cluster = Cluster(5, Plan(nodes=2, ranks_per_node=4, one_world=True))
    client = cluster.join()
    cluster.run_for(3.0)
    for seconds in ("0.5", "0.7"):
        client.submit([seconds] * 200, terms=terms.encode(terms.read(stream)))
    cluster.run_for(5.0)
    client.submit(["1"], terms=terms.encode(terms.read(wide)))
    assert started_after(cluster, max(cluster.store.jobs) + 1, 20.0) < 1.7
