"""Fair shares in the imagined cluster: the shipping broker and agents, and ranks that take their time."""

from __future__ import annotations

from typing import Any

import pytest

from pyfi_hpc.model.states import TaskState
from pyfi_hpc.model.terms import encode, read
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.client import Watch
from pyfi_hpc.sim.cluster import Cluster, Plan

_NODES, _RANKS = 4, 8
#: of each of a hundred tasks, seconds
_SHORT = "0.05"


def start(seed: int = 7) -> Cluster:
    cluster = Cluster(seed, Plan(nodes=_NODES, ranks_per_node=_RANKS, real_ranks=False))
    cluster.audited = cluster.net.codec = False
    cluster.run_for(1.5)
    return cluster


def submit(cluster: Cluster, count: int, seconds: str, each: int = 10_000, **options: Any) -> Watch:
    client = cluster.join(f"c{len(cluster.clients) + 1}")
    sizes = [min(each, count - at) for at in range(0, count, each)]
    client.submit_batches([[seconds] * size for size in sizes], [b""] * len(sizes), **options)
    return client.sinks[0]


def took_s(cluster: Cluster, count: int, seconds: str, **options: Any) -> float:
    """From the submission to the last result."""
    began, sink = cluster.now, submit(cluster, count, seconds, **options)
    cluster.run(lambda: sink.feed.complete, 100.0)
    return cluster.now - began


@pytest.mark.parametrize("longer", ["0.01", "0.05"])
def test_a_hundred_short_tasks_behind_a_million(longer: str) -> None:
    """A has a million tasks queued and has run on all ranks for a second: B's hundred take less than twice what they
    take alone, though each rank has some of A's at hand when they come."""
    alone = took_s(start(), 100, _SHORT, project="b")
    cluster = start()
    submit(cluster, 1_000_000, longer, project="a")
    cluster.run_for(1.0)
    broker = cluster.broker
    assert broker is not None and broker.machine.state.queue.ready > 990_000
    behind = took_s(cluster, 100, _SHORT, project="b")
    assert behind < 2 * alone, (behind, alone)


def test_who_is_not_shared_with_waits_for_all() -> None:
    """The same within one account and of one socket: it waits for all of them."""
    cluster = start()
    submit(cluster, 5_000, "0.05")
    cluster.run_for(1.0)
    assert took_s(cluster, 100, _SHORT) > 5_000 * 0.05 / (_NODES * _RANKS) - 2.0


@pytest.mark.parametrize("more", [1, 3])
def test_so_many_preemptible_tasks_are_ended_as_are_needed(more: int) -> None:
    """All ranks run long preemptible tasks, of two ages. Tasks of a higher priority come: about a second later as many
    are ended by the shipping ranks, without a retry of theirs, and run again when there is room."""
    cluster = Cluster(3, Plan(nodes=2, ranks_per_node=3))
    cluster.run_for(3.0)
    submit(cluster, 3, "20", preemptible=True)
    cluster.run_for(5.0)
    submit(cluster, 3, "20", preemptible=True)
    cluster.run_for(2.0)
    assert len(cluster.executed) == 6
    assert took_s(cluster, more, "0.5", priority=1) < 3.5
    cluster.run(lambda: all(client.satisfied for client in cluster.clients), 100.0)
    again = [(job, index) for job, index, attempt, _ in cluster.executed if attempt > 1]
    assert len(again) == more
    if more == 1:  # of three, one may lie at a node that runs one of the younger alone
        assert again[0][0] == 2
    results = [state for client in cluster.clients for state, _ in client.results.values()]
    assert results == [TaskState.COMPLETED] * (6 + more)
    check(cluster)


@pytest.mark.parametrize(("held", "wanted", "ended"), [("cores=3", "cores=2", 1), ("cores=1", "cores=3", 3)])
def test_what_others_hold_is_made_free_for_a_task_with_needs(held: str, wanted: str, ended: int) -> None:
    """Preemptible tasks have all cores of both nodes. One with a higher priority and needs of its own comes: what one
    node gives to as few of them as will do becomes free, and they run again."""
    cluster = Cluster(3, Plan(nodes=2, ranks_per_node=3))
    cluster.run_for(3.0)
    count = 6 // int(held[-1])
    submit(cluster, count, "20", preemptible=True, terms=encode(read(held)))
    cluster.run_for(5.0)
    assert len(cluster.executed) == count
    assert took_s(cluster, 1, "0.5", priority=1, terms=encode(read(wanted))) < 4.0
    cluster.run(lambda: all(client.satisfied for client in cluster.clients), 100.0)
    assert len([1 for _, _, attempt, _ in cluster.executed if attempt > 1]) == ended
    check(cluster)


@pytest.mark.parametrize(("terms", "ended"), [("ranks=2", 2), ("ranks=5", 5), ("ranks=2 cores=2", 4)])
def test_preemptible_tasks_make_room_for_a_gang(terms: str, ended: int) -> None:
    """All ranks of both nodes run long preemptible tasks. A gang of a higher priority does not wait for them, and no
    more are ended than it needs."""
    cluster = Cluster(3, Plan(nodes=2, ranks_per_node=3, one_world=True))
    cluster.run_for(3.0)
    submit(cluster, 6, "20", preemptible=True)
    cluster.run_for(5.0)
    assert len(cluster.executed) == 6
    assert took_s(cluster, 1, "0.5", priority=1, terms=encode(read(terms))) < 5.0
    cluster.run(lambda: all(client.satisfied for client in cluster.clients), 100.0)
    assert len([1 for _, _, attempt, _ in cluster.executed if attempt > 1]) == ended
    check(cluster)
