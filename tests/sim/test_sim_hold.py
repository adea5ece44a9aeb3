"""Jobs on hold in the simulator: nothing of them starts, nothing of them is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfi_hpc.model.records import HoldChanged
from pyfi_hpc.sim import recording, run, workload
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_holds_under_faults(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are put on hold from their start or later and released again, among others, under all faults: all checks of
    the simulator hold, and the broker gives nothing of them to a node meanwhile (an assertion where it grants)."""
    orders = {workload.a_hold: 6, workload.a_map: 4, workload.a_follower: 1, workload.a_cancel: 1, workload.a_gang: 1,
              workload.a_structure: 2, workload.a_fan: 1}  # fmt: skip
    monkeypatch.setattr(workload, "ORDERS", orders)
    for seed in range(first, first + 10):
        run.run_seed(seed)


def starts(cluster: Cluster, job: int) -> int:
    return sum(task[0] == job for task in cluster.executed)


def busy(cluster: Cluster) -> bool:
    return any(rank.busy for agent in cluster.agents.values() for rank in agent.ranks.values())


def held(plan: Plan, payloads: list[str], **options: int) -> tuple[Cluster, ClientHost]:
    """A job on hold in the middle of its work: what ran has ended."""
    cluster = Cluster(5, plan)
    client = cluster.join()
    cluster.run_for(2.0)
    client.submit(payloads, **options)
    cluster.run_for(1.0)
    assert 0 < starts(cluster, 1) < len(payloads)
    client.set_hold(1, True)
    cluster.run_for(0.1)
    begun = starts(cluster, 1)
    cluster.run_for(5.0)
    assert starts(cluster, 1) == begun and not busy(cluster)
    return cluster, client


@pytest.mark.parametrize("each", ["0.003", "0.05", "0.4"])
@pytest.mark.parametrize("restart", [False, True])
def test_nothing_starts_until_it_is_released(each: str, restart: bool) -> None:
    """What nodes and ranks have in hand comes back; the rest waits, also for a new broker; another job has the ranks
    meanwhile; released, each task runs once."""
    count = 4000 if each == "0.003" else 400
    cluster, client = held(Plan(nodes=2, ranks_per_node=2), [each] * count)
    begun = starts(cluster, 1)
    if restart:
        cluster.kill_broker()
        cluster.start_broker()
        cluster.run_for(5.0)
    client.submit(["0.01"] * 50)
    cluster.run(lambda: client.sinks[1].feed.complete, 20.0)
    assert client.sinks[1].feed.complete and starts(cluster, 1) == begun
    client.set_hold(1, False)
    cluster.run(lambda: client.satisfied, 100.0)
    assert client.satisfied and starts(cluster, 1) == count
    check(cluster)


def test_what_is_tried_again_waits_too() -> None:
    """Tasks that raise, with a retry: those that ran when the job was put on hold are not tried again before it is
    released."""
    cluster, client = held(Plan(nodes=1, ranks_per_node=4), ["@?1.5"] * 8, retries=1)
    assert [attempt for _, _, attempt, _ in cluster.executed] == [1] * 4
    assert len(cluster.store.attempts[1]) == 4  # type: ignore[index]
    client.set_hold(1, False)
    cluster.run(lambda: client.satisfied, 60.0)
    assert client.satisfied
    check(cluster)


def test_a_record_with_holds_is_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Written to a file and read again; a replay does not know who ran when, so it passes them over."""
    monkeypatch.setattr(workload, "ORDERS", {workload.a_hold: 3, workload.a_map: 1})
    made = run.make(3)
    made.go()
    log = made.cluster.store.log
    assert {record.on_hold for record in log if isinstance(record, HoldChanged)} == {True, False}
    recording.write(log, str(tmp_path / "log"))
    found = recording.read(str(tmp_path / "log"))
    assert found == log
    assert recording.replay(found)["differences"] == []
