"""Quarantine in the pure broker and agent, in virtual time: who rests, why, how long, and who never does."""

from __future__ import annotations

import msgspec
import pytest
from lone_broker import LoneBroker

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.states import Cause, TaskState

LIMITS = Limits(lease_s=1e9, quarantine_s=60.0, quarantine_s_max=200.0)


def two_nodes() -> LoneBroker:
    broker = LoneBroker(LIMITS)
    broker.node("n1", 1)
    broker.node("n2", 1)
    return broker


def node(broker: LoneBroker, name: str) -> dict[str, object]:
    return next(n for n in broker.view()["nodes"] if n["name"] == name)  # type: ignore[no-any-return]


def fails_on_n1_and_completes_on_n2(broker: LoneBroker, cause: Cause, rank: int = 0) -> None:
    """A task each for two idle nodes: that of n1 fails there and then completes on n2."""
    broker.submit(2)
    broker.now += 1.0
    (task,) = broker.held("n1")
    broker.ended("n1", task, cause, rank)
    while broker.held("n2"):
        broker.ended("n2", broker.held("n2")[0])
    assert broker.state(task) is TaskState.COMPLETED


def rests(broker: LoneBroker) -> list[tuple[str, int]]:
    return [(peer, message.rank) for peer, message in broker.sent if isinstance(message, m.Rest)]


def break_node(broker: LoneBroker, tasks: int = 3, cause: Cause = Cause.ENVIRONMENT) -> None:
    for _ in range(tasks):
        fails_on_n1_and_completes_on_n2(broker, cause, rank=-1)


def test_a_rank_rests_when_three_tasks_die_there_and_complete_elsewhere() -> None:
    """Two are not enough; the third makes the broker tell the agent to let rank 0 rest for a minute."""
    broker = two_nodes()
    for _ in range(3):
        assert rests(broker) == []
        fails_on_n1_and_completes_on_n2(broker, Cause.CRASH)
    assert rests(broker) == [("n1", 0)]
    (rest,) = [message for _, message in broker.sent if isinstance(message, m.Rest)]
    assert rest.seconds == 60.0 and rest.reason == "3 tasks failed there (CRASH) and completed elsewhere"
    assert not node(broker, "n1")["quarantined"]


def test_a_node_is_quarantined_and_gets_nothing_until_the_time_is_over() -> None:
    """Environment failures: the reason and the time are shown; the other node gets all; then it is tried again."""
    broker = two_nodes()
    break_node(broker)
    shown = node(broker, "n1")
    assert shown["quarantined"] == "3 tasks failed there (ENVIRONMENT) and completed elsewhere"
    assert shown["quarantined_until"] == pytest.approx(broker.now + 60.0)
    jobs = [broker.submit() for _ in range(2)]
    assert broker.held("n1") == [] and broker.held("n2") == [(jobs[0], 0)]
    broker.wait(59.0)
    assert broker.held("n1") == []
    broker.wait(2.0)
    assert broker.held("n1") == [(jobs[1], 0)] and not node(broker, "n1")["quarantined"]


def test_the_time_doubles_when_it_fails_again_at_once_and_ends_when_it_works() -> None:
    """60, 120, 200 (the limit) with one task each time; a completed task ends the probation."""
    broker = two_nodes()
    break_node(broker)
    for seconds in (60.0, 120.0, 200.0, 200.0):
        assert node(broker, "n1")["quarantined_until"] == pytest.approx(broker.now + seconds)
        broker.wait(seconds + 1.0)
        break_node(broker, 1)
    broker.wait(201.0)
    broker.submit(2)
    for name in ("n1", "n2"):
        broker.ended(name, broker.held(name)[0])
    break_node(broker, 2)
    assert not node(broker, "n1")["quarantined"]


def test_a_poison_task_quarantines_nobody() -> None:
    """Ten tasks that die wherever they run are FAILED, each after three attempts; all ranks stay in service."""
    broker = two_nodes()
    jobs = [broker.submit() for _ in range(10)]
    while broker.held("n1") or broker.held("n2"):
        broker.now += 1.0
        for name in ("n1", "n2"):
            for task in list(broker.held(name)):
                broker.ended(name, task, Cause.CRASH)
    assert [broker.state((job, 0)) for job in jobs] == [TaskState.FAILED] * 10
    assert rests(broker) == [] and not any(n["quarantined"] for n in broker.view()["nodes"])


def test_failures_of_the_function_never_count() -> None:
    """Errors, time limits and want of memory that do not come again elsewhere say nothing of the place."""
    for cause in (Cause.ERROR, Cause.TIME_LIMIT, Cause.OUT_OF_MEMORY):
        broker = two_nodes()
        for _ in range(8):
            task = (broker.submit(retries=1), 0)
            name = "n1" if task in broker.held("n1") else "n2"
            broker.now += 1.0
            broker.ended(name, task, cause)
            for where in ("n1", "n2"):
                for held in broker.held(where):
                    broker.ended(where, held)
        assert rests(broker) == [] and not any(n["quarantined"] for n in broker.view()["nodes"]), cause


def test_a_rank_that_completes_tasks_in_between_does_not_rest() -> None:
    """Five tasks die there and complete elsewhere, but each time another one completes there, too."""
    broker = two_nodes()
    for _ in range(5):
        fails_on_n1_and_completes_on_n2(broker, Cause.CRASH)
        broker.submit(2)
        for name in ("n1", "n2"):
            for held in broker.held(name):
                broker.ended(name, held)
    assert rests(broker) == []


def test_tasks_of_one_bundle_that_fail_together_are_one_failure() -> None:
    """Eight tasks that wait for one runner, which cannot start: no quarantine."""
    broker = LoneBroker(LIMITS)
    broker.node("n1", 1, capacity=8)
    job = broker.submit(8)
    broker.node("n2", 1, capacity=8)
    for index in range(8):
        broker.ended("n1", (job, index), Cause.ENVIRONMENT)
    for held in broker.held("n2"):
        broker.ended("n2", held)
    assert broker.machine.state.book.open_count == 0
    assert rests(broker) == [] and not node(broker, "n1")["quarantined"]


def test_when_all_nodes_are_quarantined_tasks_wait_and_the_reason_is_told() -> None:
    """`pyfi queue` says NodesQuarantined; when the time is over the tasks run, uncharged."""
    broker = two_nodes()
    broker.client()
    for name in ("n1", "n2"):
        broker.say("c1", m.Ask(7, "node_quarantine", msgspec.msgpack.encode({"name": name, "seconds": 30.0})))
    job = broker.submit()
    assert broker.view()["jobs"][job]["reason"] == "NodesQuarantined"
    broker.wait(29.0)
    assert broker.held("n1") + broker.held("n2") == []
    broker.wait(2.0)
    assert broker.held("n1") + broker.held("n2") == [(job, 0)]
    assert broker.machine.state.book.jobs[job].batches[0].trouble is None


def test_a_quarantine_is_lifted_by_hand() -> None:
    """`pyfi node release`: the node, and its ranks that rest; then one failure does not bring it back."""
    broker = two_nodes()
    break_node(broker)
    broker.say("n1", m.Capacity(1, 1, False, [(0, 50.0, "it fell")]))
    broker.say("c1", m.Ask(8, "node_release", msgspec.msgpack.encode({"name": "n1"})))
    answer = next(message for peer, message in reversed(broker.sent) if isinstance(message, m.Answer))
    assert answer.ok and msgspec.msgpack.decode(answer.body)["lifted"] == ["node", "rank 0"]
    assert ("n1", 0) in rests(broker) and not node(broker, "n1")["quarantined"]
    break_node(broker, 1)
    assert not node(broker, "n1")["quarantined"]


def test_an_unknown_node_cannot_be_released() -> None:
    broker = two_nodes()
    broker.client()
    for body in (msgspec.msgpack.encode({"name": "n9"}), b"", b"\xc1"):
        broker.say("c1", m.Ask(8, "node_release", body))
        assert not broker.sent[-1][1].ok  # type: ignore[union-attr]


def test_a_node_rests_with_more_than_half_of_its_ranks() -> None:
    """Two of three ranks rest by their agent's word: so does the node, as long as they do."""
    broker = two_nodes()
    broker.node("n3", 3)
    resting = [(0, 50.0, "its process ended again and again"), (1, 40.0, "its process ended again and again")]
    broker.say("n3", m.Capacity(1, 1, False, resting[:1]))
    assert not node(broker, "n3")["quarantined"]
    broker.say("n3", m.Capacity(1, 1, False, resting))
    shown = node(broker, "n3")
    assert str(shown["quarantined"]).startswith("2 of its 3 ranks rest: its process ended")
    assert shown["quarantined_until"] == pytest.approx(broker.now + 50.0)
    assert [r["rank"] for r in shown["resting"]] == [0, 1]  # type: ignore[index,attr-defined]


def test_a_quarantined_node_hands_back_what_it_has_not_started() -> None:
    """Its buffered tasks are asked for at once; what it hands back runs elsewhere as the first attempt."""
    broker = LoneBroker(LIMITS)
    broker.node("n1", 1, capacity=4)
    job = broker.submit(4)
    broker.node("n2", 1, capacity=4)
    broker.say("c1", m.Ask(7, "node_quarantine", msgspec.msgpack.encode({"name": "n1", "reason": "disk"})))
    assert [message.count for peer, message in broker.sent if isinstance(message, m.Recall)][-1:] == [4]
    for index in (3, 2, 1):
        broker.ended("n1", (job, index), Cause.RELEASED)
    assert sorted(broker.held("n2")) == [(job, 1), (job, 2), (job, 3)]
    assert node(broker, "n1")["quarantined"] == "disk"


def test_a_task_is_not_tried_again_where_it_failed_while_there_is_another_node() -> None:
    """n2 is full: the task waits for it rather than die on n1 again; after half a minute n1 may have it."""
    broker = two_nodes()
    jobs = [broker.submit(), broker.submit()]
    (mine,) = broker.held("n1")
    broker.ended("n1", mine, Cause.CRASH)
    assert mine[0] in jobs and broker.held("n1") == []
    broker.wait(29.0)
    broker.advance()
    assert broker.held("n1") == []
    broker.wait(2.0)
    broker.advance()
    assert broker.held("n1") == [mine]
