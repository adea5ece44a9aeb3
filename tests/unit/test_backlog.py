"""The broker tells its backlog, and lets the agents of an allocation drain: asked as the elastic process asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from lone_broker import SOCKET, LoneBroker

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.elastic import Backlog, NodeTold, Work
from pyfi_hpc.model.events import LedgerDown, SocketsChanged
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.terms import Terms, encode


def ask(broker: LoneBroker, verb: str, **body: Any) -> m.Answer:
    broker.client()
    broker.say("c1", m.Ask(7, verb, msgspec.msgpack.encode(body)))
    answer = broker.sent[-1][1] if isinstance(broker.sent[-1][1], m.Answer) else None
    found = answer or next(message for _, message in reversed(broker.sent) if isinstance(message, m.Answer))
    assert found.request == 7
    return found


def backlog(broker: LoneBroker) -> Backlog:
    return msgspec.msgpack.decode(ask(broker, "backlog").body, type=Backlog)


def test_what_is_ready_what_nodes_have_and_how_long_it_takes() -> None:
    """10 tasks for 2 ranks of an allocation: 8 ready and 2 granted of unknown duration; then one has ended."""
    broker = LoneBroker()
    broker.node("n1", 2, "77")
    job = broker.submit(10)
    told = backlog(broker)
    assert told.held == ""
    assert told.work == [Work("sample.work", 8, 8, 2, None)]
    assert told.nodes == [NodeTold("n1/77", "77", 2, 2, True, None)]
    broker.now += 3.0
    broker.ended("n1", (job, 0))
    broker.now += 5.0
    told = backlog(broker)
    assert told.work == [Work("sample.work", 7, 7, 2, 0.0)]
    assert told.nodes[0].still_s == pytest.approx(5.0)


def test_a_limit_says_how_many_may_run() -> None:
    """A socket with a concurrency of 3 and 2 running: of the 8 that are ready one may."""
    broker = LoneBroker()
    broker.tell(SocketsChanged([replace(SOCKET, concurrency=3)]))
    broker.node("n1", 2)
    broker.submit(10)
    assert backlog(broker).work == [Work("sample.work", 8, 1, 2, None)]


def test_no_work_and_no_ledger() -> None:
    broker = LoneBroker()
    assert backlog(broker) == Backlog("", [], [])
    broker.tell(LedgerDown("away"))
    assert backlog(broker).held == "the ledger is away"


def test_an_allocation_is_given_back() -> None:
    """Its agents are told to drain, no other; they get nothing more, and what they have stays with them."""
    broker = LoneBroker()
    for name, allocation in (("n1", "77"), ("n2", "77"), ("n3", "78")):
        broker.node(name, 1, allocation)
    broker.submit(3)
    held = broker.held("n1")
    answer = ask(broker, "give_back", allocation="77")
    assert answer.ok and set(msgspec.msgpack.decode(answer.body)["nodes"]) == {"n1/77", "n2/77"}
    stops = [(peer, message) for peer, message in broker.sent if isinstance(message, m.Stop)]
    assert stops == [("n1", m.Stop(True, "given back")), ("n2", m.Stop(True, "given back"))]
    assert broker.held("n1") == held
    before = (len(broker.held("n1")), len(broker.held("n2")))
    broker.ended("n3", broker.held("n3")[0])
    broker.submit(5)
    assert (len(broker.held("n1")), len(broker.held("n2"))) == before
    assert [node.usable for node in backlog(broker).nodes] == [False, False, True]


@pytest.mark.parametrize(("body", "words"), [({"allocation": "9"}, "no node of allocation '9'"), ({}, "names no")])
def test_nothing_to_give_back(body: dict[str, Any], words: str) -> None:
    answer = ask(LoneBroker(), "give_back", **body)
    assert not answer.ok and words in msgspec.msgpack.decode(answer.body)["what"]


def test_what_tasks_need_is_told() -> None:
    """Tasks of two cores beside plain ones: a line each; what no node here can give says so."""
    broker = LoneBroker()
    broker.submit(3)
    job = int(broker.machine.state.next_job)
    terms = encode(Terms(cores=2, labels=("fast",)))
    data = offsets_of([b"x"] * 4), b"x" * 4
    broker.say("c1", m.Submit(job.to_bytes(16, "big"), 0, 0, 4, True, "sample.work", *data, terms=terms))
    plain, wide = backlog(broker).work
    assert (plain.ready, plain.cores, plain.terms, plain.never) == (3, 1, "", False)
    assert (wide.ready, wide.cores, wide.never) == (4, 2, False)
    broker.node("n1", 4, "77", capacity=0)  # it has no such label
    assert [work.never for work in backlog(broker).work] == [False, True]


def test_what_nodes_have_of_tasks_with_needs_is_told() -> None:
    """Two of three tasks of two cores fit a node of four ranks: one waits, two are with the node, of one rank each."""
    broker = LoneBroker()
    broker.node("n1", 4, "77")
    broker.client()
    data = offsets_of([b"x"] * 3), b"x" * 3
    broker.say("c1", m.Submit(bytes(16), 0, 0, 3, True, "sample.work", *data, terms=encode(Terms(cores=2))))
    (work,) = backlog(broker).work
    assert (work.ready, work.granted, work.ranks, work.cores) == (1, 2, 1, 2)


def test_what_a_pool_could_give_is_not_refused() -> None:
    """Eight cores or a GPU are refused while there is a node of two ranks; accepted once a pool has such nodes."""
    broker = LoneBroker()
    broker.node("n1", 2)

    def answer(number: int, **needs: int) -> str:
        part = offsets_of([b"x"])
        broker.client()
        terms = encode(Terms(**needs))
        key = bytes([number]) * 16
        broker.say("c1", m.Submit(key, 0, 0, 1, True, "sample.work", part, b"x", terms=terms))
        return next(type(said).__name__ for _, said in reversed(broker.sent) if getattr(said, "key", b"") == key)

    assert [answer(1, cores=8), answer(2, gpu_thousandths=1000), answer(3, ranks=9)] == ["Refused"] * 3
    ask(broker, "backlog", shapes=[[8, 32, 0]])
    assert [answer(4, cores=8), answer(5, gpu_thousandths=1000)] == ["Accepted", "Refused"]
    assert answer(6, ranks=9) == "Accepted"
    ask(broker, "backlog", shapes=[[8, 32, 1]])
    assert answer(7, gpu_thousandths=1000) == "Accepted"


def test_what_an_allocation_that_waits_could_give_is_not_refused() -> None:
    """Two nodes of four ranks were asked for, and one of two ranks is here: what they could give waits, more is
    refused. When both are here, what they have counts: it is known that they have no such label."""
    broker = LoneBroker()
    broker.node("n1", 2)
    ask(broker, "expect", allocation="77", shape=[4, 8, 0])

    def answer(number: int, **needs: Any) -> str:
        broker.client()
        key = bytes([number]) * 16
        submit = m.Submit(key, 0, 0, 1, True, "sample.work", offsets_of([b"x"]), b"x", terms=encode(Terms(**needs)))
        broker.say("c1", submit)
        return next(type(said).__name__ for _, said in reversed(broker.sent) if getattr(said, "key", b"") == key)

    assert [answer(1, ranks=8), answer(2, cores=4), answer(3, cores=2, labels=("fast",))] == ["Accepted"] * 3
    assert [answer(4, ranks=9), answer(5, cores=5), answer(6, gpu_thousandths=1000)] == ["Refused"] * 3
    broker.node("n2", 4, "77")
    assert answer(7, ranks=8) == "Accepted"
    broker.node("n3", 4, "77")
    assert answer(8, cores=4) == "Accepted"
    assert answer(9, cores=2, labels=("fast",)) == "Refused"
    ask(broker, "expect", allocation="77", shape=[4, 8, 0])  # told late: it is all here
    assert answer(10, cores=2, labels=("fast",)) == "Refused"


def test_what_no_pool_could_give_is_refused_with_the_nearest_shape() -> None:
    """No node is here yet, but pools say what their allocations have: more than that is refused, and named."""
    broker = LoneBroker()
    ask(broker, "backlog", shapes=[[4, 8, 2], [16, 16, 0]])

    def refusal(number: int, **needs: Any) -> str:
        broker.client()
        key = bytes([number]) * 16
        submit = m.Submit(key, 0, 0, 1, True, "sample.work", offsets_of([b"x"]), b"x", terms=encode(Terms(**needs)))
        broker.say("c1", submit)
        said = next(said for _, said in reversed(broker.sent) if getattr(said, "key", b"") == key)
        return said.what if isinstance(said, m.Refused) else ""

    assert refusal(1, cores=16) == refusal(2, ranks=4, gpu_thousandths=1000) == refusal(3, gpu_thousandths=2000) == ""
    for number, needs in enumerate(({"ranks": 5, "gpu_thousandths": 1000}, {"gpu_thousandths": 3000}), 5):
        assert "an allocation that may come has 2 nodes of 4 ranks and 2 GPUs" in refusal(number, **needs)
    assert "an allocation that may come has 1 node of 16 ranks and 0 GPUs" in refusal(7, cores=17)
