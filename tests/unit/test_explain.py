"""`pyfi why` is true when it is tried: what it says would start a task does."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_broker import LoneBroker

from pyfi_hpc.core import explain
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause


def why(broker: LoneBroker, job: int, index: int) -> dict[str, Any]:
    body = msgspec.msgpack.encode({"job": job, "index": index})
    ok, answer = explain.asked(broker.machine.state, explain.WHY, body, broker.now, None)
    assert ok
    return msgspec.msgpack.decode(answer)  # type: ignore[no-any-return]


def submit(
    broker: LoneBroker, count: int, priority: int = 0, at_once: int = 0, limit_s: float = 0.0, project: str = ""
) -> int:
    """A job of its own class where ``limit_s`` differs; its number."""
    broker.client()
    job = int(broker.machine.state.next_job)
    data = offsets_of([b"x"] * count), b"x" * count
    broker.say("c1", m.Submit(
        job.to_bytes(16, "big"), 0, 0, count, True, "sample.work", *data, priority=priority, at_once=at_once,
        time_limit_s=limit_s, project=project,
    ))  # fmt: skip
    return job


JOBS = st.lists(
    st.tuples(
        st.integers(1, 700), st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 7]), st.sampled_from([0.0, 9.0]),
        st.sampled_from(["", "", "bio", "art"]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data(), JOBS, st.integers(1, 4), st.integers(0, 4))
def test_so_many_more_ranks_start_it(data: st.DataObject, jobs: list[Any], ranks: int, more: int) -> None:
    """Whatever is in line: a task starts at once where so many idle ranks join as it says."""
    broker = LoneBroker()
    broker.node("n1", ranks, capacity=ranks + more)
    counts = {submit(broker, *job): job[0] for job in jobs}
    tasks = [(job, index) for job, count in counts.items() for index in range(count)]
    waiting = [task for task in tasks if not held(broker, task)]
    if not waiting:
        return
    job, index = data.draw(st.sampled_from(waiting))
    told = why(broker, job, index)
    if told["reason"] == "JobArrayTaskLimit":
        assert jobs[job - 1][2]
        return
    (wanted,) = (re.search(r"with (\d+) more idle rank", line) for line in told["would"] if "more idle" in line)
    assert wanted
    broker.node("n2", int(wanted[1]))
    batch = broker.machine.state.book.jobs[job].batches[0]  # type: ignore[index]
    at_once = batch.job.at_once
    assert held(broker, (job, index)) or (at_once and batch.job.granted >= at_once)


def held(broker: LoneBroker, task: tuple[int, int]) -> bool:
    batch = broker.machine.state.book.jobs[task[0]].batches[0]  # type: ignore[index]
    return bool(batch.states[task[1]] == 2)


@settings(max_examples=50, deadline=None)
@given(JOBS)
def test_so_high_a_priority_makes_it_the_next(jobs: list[Any]) -> None:
    """The same call with the priority that is told is what the next idle rank takes."""
    broker = LoneBroker()
    broker.node("n1", 1)
    for job in jobs:
        submit(broker, *job)
    last = submit(broker, 1)
    (told,) = [line for line in why(broker, last, 0)["would"] if "--priority" in line] or [""]
    if told:
        found = re.search(r"--priority (\d+)", told)
        assert found
        raised = submit(broker, 1, priority=int(found[1]))
        broker.ended("n1", broker.held("n1")[0])
        assert broker.held("n1") == [(raised, 0)]


def test_a_task_that_failed_on_the_only_node_with_room_waits_for_another() -> None:
    """It is not tried again where it failed while another node is there, idle or not; it starts when that one is."""
    broker = LoneBroker()
    broker.node("n1", 1)
    broker.node("n2", 1)
    busy, task = submit(broker, 1), submit(broker, 1)
    broker.now += 1.0
    broker.ended("n2", (task, 0), Cause.CRASH)
    assert (broker.held("n1"), broker.held("n2")) == ([(busy, 0)], [])
    told = why(broker, task, 0)
    assert told["reason"] == "Elsewhere" and told["start_s"] == Limits().elsewhere_s
    broker.ended("n1", (busy, 0))
    assert broker.held("n1") == [(task, 0)]


def test_hostile_questions_are_refused() -> None:
    """They reach the broker's own thread: whatever they hold, it answers and lives."""
    broker = LoneBroker()
    submit(broker, 2)
    values = [float("inf"), float("nan"), -1, 1 << 63, "1", None, [1], {"a": 1}, b"x", True, 1]
    for job in values:
        for index in values:
            body = msgspec.msgpack.encode({"job": job, "index": index})
            explain.asked(broker.machine.state, explain.WHY, body, broker.now, None)
    for body in (b"", b"\xc1", b"\x93\x01", msgspec.msgpack.encode({"node": 5}), msgspec.msgpack.encode([1])):
        assert not explain.asked(broker.machine.state, explain.WHY, body, broker.now, None)[0]
