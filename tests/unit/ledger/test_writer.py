"""The journal's threads on the ledger in memory: order, wake-ups, a ledger that is down, a fenced broker."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyfi_hpc.errors import LedgerUnavailable, StaleEpoch
from pyfi_hpc.ledger import writer as writer_module
from pyfi_hpc.ledger.memory import MemoryLedger, MemoryStore
from pyfi_hpc.ledger.writer import RETRY_FIRST_S, RETRY_MAX_S, Writer, pause
from pyfi_hpc.model.effects import AskDesk, FindJob, ReadPage, ReadPayloads, ReadValues
from pyfi_hpc.model.events import (
    AskAnswered,
    JobFound,
    LedgerDown,
    LedgerUp,
    PageRead,
    PayloadsRead,
    ValuesRead,
)
from pyfi_hpc.model.records import BatchAdmitted, JobOpened
from pyfi_hpc.model.states import OnFailure

GROUP: list[Any] = [
    JobOpened(1, b"k", "ada", "n", b"", OnFailure.FINISH, 1.0),  # type: ignore[arg-type]
    BatchAdmitted(1, 1, 0, 0, 1, True, 1, 1, 0, 0, 0.0, b"\0\0\0\0\1\0\0\0", b"x", b""),  # type: ignore[arg-type]
]


class Gate(MemoryLedger):
    """A ledger whose commits and reads wait until they are let go."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.commits, self.reads = threading.Event(), threading.Event()
        self.commits.set()
        self.reads.set()

    def commit(self, records: Any, seq: int) -> None:
        assert self.commits.wait(5)
        super().commit(records, seq)

    def payloads(self, batches: Any) -> Any:
        assert self.reads.wait(5)
        return super().payloads(batches)


@pytest.fixture
def ledger() -> Gate:
    made = Gate(MemoryStore())
    made.take_over("here")
    return made


@pytest.fixture
def writer(ledger: Gate) -> Iterator[Writer]:
    made = Writer(ledger, lambda query: [AskAnswered(query.peer, query.request, True, query.body)])
    yield made
    ledger.commits.set()
    ledger.reads.set()
    made.close()


def gather(
    writer: Writer, enough: Callable[[int, list[Any]], bool], wait_s: float = 5.0
) -> tuple[int, list[Any]]:
    """Receive as the loop does, woken by the descriptor alone; (groups committed, events)."""
    done, events = 0, []
    deadline = time.monotonic() + wait_s
    while not enough(done, events):
        assert select.select(writer.waitables, [], [], max(0.0, deadline - time.monotonic()))[0], (
            done,
            events,
        )
        committed, more = writer.receive()
        done += committed
        events += more
    return done, events


def test_a_group_is_committed_and_told(writer: Writer, ledger: Gate) -> None:
    """Busy from submit until receive says that the group is committed."""
    ledger.commits.clear()
    writer.submit(GROUP, [])
    assert writer.busy
    assert writer.receive() == (False, [])
    ledger.commits.set()
    assert gather(writer, lambda done, _: done == 1) == (1, [])
    assert not writer.busy
    assert ledger.find_job("ada", b"k") is not None


def test_reads_see_the_commit_before_them(writer: Writer) -> None:
    """All kinds of queries in the group that opens the job: each is answered from after the commit."""
    queries = [
        FindJob("ada", b"k"), ReadPayloads([1]), ReadValues([(1, 0)]), ReadPage(b"p", "ada", 1, (0, -1), 99),
        ReadPage(b"p", "ada", 7, (0, -1), 99), AskDesk(b"p", "client", "ada", 3, "ls", b"body"),
    ]  # type: ignore[list-item]  # fmt: skip
    writer.submit(GROUP, queries)
    _, events = gather(writer, lambda done, events: done == 1 and len(events) == len(queries))
    kinds = {type(event): event for event in events}
    assert kinds[JobFound].found.opened.job == 1
    assert kinds[PayloadsRead].rows == [(1, b"\0\0\0\0\1\0\0\0", b"x")]
    assert kinds[ValuesRead] == ValuesRead([(1, 0)], {})  # type: ignore[list-item]
    assert kinds[AskAnswered].body == b"body"
    assert [e.known for e in events if isinstance(e, PageRead)] == [True, False]


def test_a_long_read_does_not_hold_up_the_next_commit(writer: Writer, ledger: Gate) -> None:
    """A read hangs: groups are committed meanwhile, and its answer comes when it comes."""
    ledger.reads.clear()
    writer.submit([], [ReadPayloads([1])])  # type: ignore[list-item]
    gather(writer, lambda done, _: done == 1)
    writer.submit(GROUP, [AskDesk(b"p", "client", "ada", 3, "ls", b"")])  # type: ignore[arg-type]
    _, events = gather(writer, lambda done, events: done == 1 and len(events) == 1)
    assert isinstance(events[0], AskAnswered)
    ledger.reads.set()
    _, events = gather(writer, lambda _, events: len(events) == 1)
    assert isinstance(events[0], PayloadsRead)


def test_a_ledger_that_is_down_is_told_once_and_tried_for_ever(
    writer: Writer, ledger: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down for several tries: LedgerDown once, the group stays, then LedgerUp and the commit."""
    monkeypatch.setattr(writer_module, "RETRY_FIRST_S", 0.001)
    ledger.store.down = True
    writer.submit(GROUP, [FindJob("ada", b"k")])
    _, events = gather(writer, lambda _, events: len(events) == 1)
    assert isinstance(events[0], LedgerDown)
    time.sleep(0.03)
    assert writer.receive() == (False, [])
    assert writer.busy
    ledger.store.down = False
    _, events = gather(writer, lambda done, events: done == 1 and len(events) == 2)
    assert events[0] == LedgerUp(ledger.epoch)
    assert isinstance(events[1], JobFound)


def test_a_read_of_a_ledger_that_is_down_is_tried_again(
    writer: Writer, ledger: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger goes down between commit and read: the answer comes when it is back."""
    monkeypatch.setattr(writer_module, "RETRY_FIRST_S", 0.001)
    ledger.store.down = True
    writer.submit([], [FindJob("ada", b"k")])
    gather(writer, lambda done, _: done == 1)
    time.sleep(0.02)
    ledger.store.down = False
    _, events = gather(writer, lambda _, events: len(events) == 1)
    assert events == [JobFound(b"k", None)]


def test_a_lost_session_is_told_by_the_new_epoch(writer: Writer, ledger: Gate) -> None:
    """The ledger replaced its connection by itself: the broker hears of the new epoch."""
    ledger.lose_session()
    writer.submit(GROUP, [])
    assert gather(writer, lambda done, _: done == 1) == (1, [LedgerUp(2)])  # type: ignore[arg-type]
    assert writer.epoch() == 2


def test_a_fenced_broker_ends(writer: Writer, ledger: Gate) -> None:
    """Another broker took over: receive raises, so that the loop ends."""
    ledger.lose_session()
    MemoryLedger(ledger.store).take_over("there")
    writer.submit(GROUP, [])
    assert select.select(writer.waitables, [], [], 5)[0]
    with pytest.raises(StaleEpoch, match="there"):
        writer.receive()


def test_it_can_be_closed_while_the_ledger_is_down(ledger: Gate) -> None:
    """Closing gives up the group that is being tried: it was not acknowledged."""
    writer = Writer(ledger, lambda query: [])
    ledger.store.down = True
    writer.submit(GROUP, [FindJob("ada", b"k")])
    gather(writer, lambda _, events: len(events) == 1)
    begun = time.monotonic()
    writer.close()
    assert time.monotonic() - begun < 2
    assert not any(t.name.startswith("ledger c") for t in threading.enumerate())


def test_pauses_grow_to_a_limit() -> None:
    """From 50 ms to a second, drawn from the upper half."""
    for tries in range(20):
        top = min(RETRY_MAX_S, RETRY_FIRST_S * 2**tries)
        assert top / 2 <= pause(tries) <= top


def test_a_desk_that_fails_ends_the_broker(ledger: Gate) -> None:
    """The desk answers its own errors; one that it does not is a bug and is not swallowed."""

    def broken(query: AskDesk) -> list[Any]:
        raise LedgerUnavailable("bug")

    writer = Writer(ledger, broken)
    writer.submit([], [AskDesk(b"p", "client", "ada", 3, "ls", b"")])  # type: ignore[arg-type]
    with pytest.raises(LedgerUnavailable):
        gather(writer, lambda _, events: len(events) == 1)
    writer.close()


class Beating(MemoryLedger):
    """Loses its session, or is away, when told to; counts beats."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.beats = 0
        self.away = self.lost = self.replaced = False

    def beat(self) -> bool:
        self.beats += 1
        if self.away:
            raise LedgerUnavailable("away")
        if self.replaced:
            raise StaleEpoch("replaced")
        return not self.lost

    def commit(self, records: Any, seq: int) -> None:
        super().commit(records, seq)
        self.lost = False


@pytest.fixture
def beating(monkeypatch: pytest.MonkeyPatch) -> Beating:
    monkeypatch.setattr(writer_module, "BEAT_S", 0.01)
    made = Beating()
    made.take_over("here")
    return made


def wait_for(what: Callable[[], Any], writer: Writer | None = None) -> None:
    deadline = time.monotonic() + 5.0
    while not what():
        if writer is not None:
            writer.receive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lost_hold_is_taken_again_by_a_commit_of_nothing(beating: Beating) -> None:
    """Nobody submits: the beat finds the hold lost, and a group without records replaces it."""
    writer = Writer(beating, lambda query: [])
    beating.lost = True
    done, events = gather(writer, lambda done, _: done == 1)
    assert (done, events) == (1, [])
    assert not writer.busy
    assert not beating.lost
    writer.submit(GROUP, [])
    assert gather(writer, lambda done, _: done == 1) == (1, [])
    writer.close()


def test_a_ledger_that_does_not_answer_a_beat_is_revived(beating: Beating) -> None:
    """Again and again until it answers; a server that does not start ends nothing."""
    calls: list[int] = []

    def revive() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise LedgerUnavailable("its memory is still held")
        beating.away = False

    writer = Writer(beating, lambda query: [], revive)
    beating.away = True
    wait_for(lambda: len(calls) == 3)
    beats = beating.beats
    wait_for(lambda: beating.beats > beats + 2)
    assert len(calls) == 3
    assert writer.receive() == (False, [])
    writer.close()


def test_a_broker_that_was_replaced_hears_it_from_its_beat(beating: Beating) -> None:
    """Also one that has nothing to commit ends."""
    writer = Writer(beating, lambda query: [])
    beating.replaced = True
    assert select.select(writer.waitables, [], [], 5.0)[0]
    with pytest.raises(StaleEpoch):
        writer.receive()
    writer.close()


def test_a_loop_that_hangs_stops_the_beats(beating: Beating, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked to turn now and then; while it does not, the broker does not say that it lives."""
    monkeypatch.setattr(writer_module, "_HUNG_S", 0.2)
    writer = Writer(beating, lambda query: [])
    begun = time.monotonic()
    while time.monotonic() < begun + 0.5:
        assert select.select(writer.waitables, [], [], 5.0)[0]
        writer.receive()
    time.sleep(0.3)
    beats = beating.beats
    time.sleep(0.1)
    assert beating.beats == beats
    writer.receive()
    wait_for(lambda: beating.beats > beats)
    writer.close()


def test_an_answer_of_the_desk_is_owed_until_it_is_received(ledger: Gate) -> None:
    """A broker that ends waits for it."""
    answer = threading.Event()

    def desk(query: AskDesk) -> list[Any]:
        assert answer.wait(5)
        return [AskAnswered(query.peer, query.request, True, b"")]

    writer = Writer(ledger, desk)
    writer.submit([], [AskDesk(b"p", "client", "ada", 1, "deploy", b"")])  # type: ignore[arg-type]
    assert gather(writer, lambda done, _: done == 1) == (1, [])
    assert writer.asked
    answer.set()
    gather(writer, lambda _, events: bool(events))
    assert not writer.asked
    writer.close()
