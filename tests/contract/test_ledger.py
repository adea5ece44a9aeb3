"""What every ledger keeps to: the one in memory and the one on Postgres run the same tests."""

from __future__ import annotations

import random
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from ledger_fixture import administer
from records import admitted, carrying, closed, failed, hold, learned, opened, settled

from pyfi_hpc.errors import BrokerHeld, StaleEpoch
from pyfi_hpc.ledger.memory import MemoryLedger, MemoryStore
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.model.states import Cause, TaskState


@dataclass
class Kind:
    """One kind of ledger: brokers on one store, and a way to cut the session of one of them."""

    make: Callable[[], MemoryLedger | PostgresLedger]
    cut: Callable[[], None]


@pytest.fixture(params=["memory", "postgres"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    made: list[MemoryLedger | PostgresLedger] = []
    if request.param == "memory":
        store = MemoryStore()

        def make() -> MemoryLedger | PostgresLedger:
            made.append(MemoryLedger(store))
            return made[-1]

        def cut() -> None:
            assert store.live is not None
            store.live.lose_session()

    else:
        url = request.getfixturevalue("ledger_url")

        def make() -> MemoryLedger | PostgresLedger:
            made.append(PostgresLedger(url))
            return made[-1]

        def cut() -> None:
            gone = administer(
                url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pyfi ledger'"
                if server_version(url) >= 14 else
                "SELECT pg_terminate_backend(pid), pg_sleep(0.2) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pyfi ledger'",
            )  # fmt: skip
            assert gone

    yield Kind(make, cut)
    for ledger in made:
        ledger.close()


def server_version(url: str) -> int:
    return int(str(administer(url, "SHOW server_version_num")[0][0])) // 10000


@pytest.fixture
def ledger(kind: Kind) -> MemoryLedger | PostgresLedger:
    return kind.make()


def test_an_empty_ledger_begins_at_one(ledger: PostgresLedger) -> None:
    """Take over a new ledger: epoch 1, and the first job and batch are 1."""
    found = ledger.take_over("here")
    assert (found.epoch, found.next_job, found.next_batch) == (1, 1, 1)
    assert found.jobs == found.batches == found.outcomes == found.attempts == []
    assert ledger.epoch == 1


def test_records_come_back_as_they_were(kind: Kind) -> None:
    """Commit one of each kind, take over again, and compare every field that recovery promises."""
    ledger = kind.make()
    ledger.take_over("here")
    job, batch = opened(1), admitted(1, 1, edges=[(0, 0, 1, 5), (2, 1, 0, 1)])
    outcome, attempt = settled(1, 1, 1, 2), failed(1, 1)
    ledger.commit([job, batch, outcome, attempt], 1)
    ledger.close()
    found = kind.make().take_over("there")
    assert found.jobs == [job]
    assert found.batches == [replace(batch, offsets=b"", payload=b"")]
    assert found.outcomes == [replace(outcome, started=b"", durations=b"", offsets=b"", payload=b"", outputs=b"")]
    assert found.attempts == [replace(attempt, outputs=b"")]
    assert (found.epoch, found.next_job, found.next_batch) == (2, 2, 2)


def test_recovery_reads_whole_unfinished_jobs_only(kind: Kind) -> None:
    """Of three jobs the one with an open batch comes back, with its closed batches, in order."""
    ledger = kind.make()
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1), settled(1, 1), closed(1)], 1)
    ledger.commit([opened(2), admitted(2, 2, 0, 0, last=False), settled(2, 2), closed(2)], 2)
    ledger.commit([admitted(3, 2, 1, 3), settled(3, 2, 0, 1), opened(3), admitted(4, 3)], 3)
    ledger.commit([settled(4, 3), closed(4)], 4)
    ledger.close()
    found = kind.make().take_over("there")
    assert [job.job for job in found.jobs] == [2]
    assert [(b.batch, b.number) for b in found.batches] == [(2, 0), (3, 1)]
    assert [(o.batch, o.lo, o.count) for o in found.outcomes] == [(2, 0, 3), (3, 0, 1)]
    assert (found.next_job, found.next_batch) == (4, 5)


def test_closed_batches_stay_closed_whatever_their_order(kind: Kind) -> None:
    """Close 60 batches in a scattered order over several commits: only the open ones are read."""
    ledger = kind.make()
    ledger.take_over("here")
    ledger.commit([r for n in range(1, 61) for r in (opened(n), admitted(n, n))], 1)
    numbers = [n * 7 % 61 for n in range(1, 61)]
    for seq, start in enumerate(range(0, 60, 12), 2):
        part = [n for n in numbers[start : start + 12] if n not in (5, 17, 60)]
        ledger.commit([r for n in part for r in (settled(n, n), closed(n))], seq)
    ledger.close()
    for _ in range(2):
        ledger = kind.make()
        assert [b.batch for b in ledger.take_over("there").batches] == [5, 17, 60]
        # closing again is harmless: a restarted broker may not know
        ledger.commit([closed(1), closed(2)], 1)
        ledger.close()


def test_the_same_key_is_one_job(ledger: PostgresLedger) -> None:
    """Look a job up by its owner and key, as a client that sends again makes the broker do."""
    ledger.take_over("here")
    ledger.commit([opened(1, b"k" * 16), admitted(1, 1, 0, last=False), admitted(2, 1, 1, 3)], 1)
    found = ledger.find_job("ada", b"k" * 16)
    assert found is not None
    assert (found.opened.job, found.next_number, found.opened.key) == (1, 2, b"k" * 16)
    assert ledger.find_job("eve", b"k" * 16) is None
    assert ledger.find_job("ada", b"l" * 16) is None


def test_a_key_is_opened_once(ledger: PostgresLedger) -> None:
    """Opening a key twice is a bug upstream: nothing of the group stays, and the ledger goes on."""
    ledger.take_over("here")
    ledger.commit([opened(1, b"k" * 16), admitted(1, 1)], 1)
    for again in (
        [opened(2, b"k" * 16), admitted(2, 2)],
        [admitted(2, 1, 0)],
        [opened(1), admitted(2, 1, 1, 3)],
    ):
        with pytest.raises(Exception, match="duplicate|before"):
            ledger.commit(again, 2)
    assert ledger.payloads([2]) == []
    ledger.commit([opened(2), admitted(2, 2)], 2)
    assert len(ledger.payloads([2])) == 1


def test_payloads_come_in_the_order_asked(ledger: PostgresLedger) -> None:
    """Ask for batches backwards, and one that does not exist."""
    ledger.take_over("here")
    batches = [admitted(n, n) for n in (1, 2, 3)]
    ledger.commit([r for n in (1, 2, 3) for r in (opened(n), batches[n - 1])], 1)
    assert ledger.payloads([3, 1, 9, 2]) == [(n, batches[n - 1].offsets, batches[n - 1].payload) for n in (3, 1, 2)]
    assert ledger.payloads([]) == []


def test_large_values_come_back_as_they_were(ledger: PostgresLedger) -> None:
    """Large arguments and results, equal ones and such as differ at an end, beside small ones: all reads give them."""
    ledger.take_over("here")
    large = random.Random(1).randbytes(300_000)
    given = [
        [large], [b"", large, b"a", large + b"b", b"c" * 100], [b"x" * 64_000], [b"y" * 63_999, b"z" * 10],
        [large[:-1]], [b"\0" * 200_000, large], [bytes([n]) * 100 for n in range(200)],
    ]  # fmt: skip
    for n, values in enumerate(given, 1):
        ledger.commit([opened(n), carrying(admitted(n, n, count=len(values)), *values)], 2 * n - 1)
        ledger.commit([carrying(settled(n, n, 0, len(values)), *values[::-1])], 2 * n)
    batches = range(1, len(given) + 1)
    read = ledger.payloads(batches)  # type: ignore[arg-type]
    assert [(n, payload) for n, _, payload in read] == [(n, b"".join(given[n - 1])) for n in batches]
    wanted = [(n, i) for n in batches for i in range(len(given[n - 1]))]
    values = ledger.values(wanted)  # type: ignore[arg-type]
    assert {place: value for place, (_, value) in values.items()} == {
        (n, i): given[n - 1][::-1][i] for n, i in wanted
    }
    for n in batches:
        page = ledger.page(n, (0, -1), 1)  # type: ignore[arg-type]
        assert page is not None
        assert b"".join(given[n - 1][::-1]) == page.ranges[0].payload


def test_values_are_those_of_final_tasks(ledger: PostgresLedger) -> None:
    """Ask for tasks of two batches of which one is half done, of another job, and past the end."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1, 0, 0, 4, False), admitted(2, 1, 1, 4, 4), opened(2)], 1)
    ledger.commit([settled(1, 1, 0, 1), settled(1, 1, 1, 3), settled(2, 1, 2, 1, TaskState.FAILED)], 2)
    wanted = [(1, 0), (1, 3), (1, 4), (1, 6), (1, 7), (1, 8), (2, 0), (3, 0)]
    assert ledger.values(wanted) == {
        (1, 0): (3, b"result 1.0"), (1, 3): (3, b"result 1.3"), (1, 6): (4, b"result 2.2")
    }  # fmt: skip
    assert ledger.values([]) == {}


def test_tasks_that_never_ran_have_empty_values(ledger: PostgresLedger) -> None:
    """A cancelled range has no times and no offsets."""
    ledger.take_over("here")
    never = replace(
        settled(1, 1, 0, 3, TaskState.CANCELLED),
        started=b"",
        durations=b"",
        offsets=b"",
        payload=b"",
        grant=0,
        rank=-1,
    )
    ledger.commit([opened(1), admitted(1, 1), never], 1)  # type: ignore[list-item]
    assert ledger.values([(1, 2)]) == {(1, 2): (TaskState.CANCELLED, b"")}


def test_pages_go_through_all_outcomes_in_order(ledger: PostgresLedger) -> None:
    """Read a job range by range with a tiny limit, then in one go; cursors are exact."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1, 0, 0, 4, False), admitted(2, 1, 1, 4, 4), opened(2)], 1)
    ledger.commit([settled(2, 1, 0, 4), settled(1, 1, 2, 2)], 2)
    ledger.commit([settled(1, 1, 0, 2)], 3)
    cursor, seen = (0, -1), []
    while True:
        page = ledger.page(1, cursor, 1)
        assert page is not None
        assert len(page.ranges) == 1
        seen += [(r.first, r.count, r.states, r.payload[:10]) for r in page.ranges]
        cursor = page.cursor
        if not page.more:
            break
    done = bytes([TaskState.COMPLETED])
    assert seen == [
        (0, 2, done * 2, b"result 1.0"),
        (2, 2, done * 2, b"result 1.2"),
        (4, 4, done * 4, b"result 2.0"),
    ]
    whole = ledger.page(1, (0, -1), 1 << 20)
    assert whole is not None
    assert [r.first for r in whole.ranges] == [0, 2, 4]
    assert (whole.owner, whole.name, whole.shape, whole.total) == ("ada", "job 1", b"shape", 8)
    after = ledger.page(1, whole.cursor, 1 << 20)
    assert after is not None
    assert (after.ranges, after.cursor, after.more) == ([], whole.cursor, False)


def test_a_job_without_its_last_batch_has_no_total(ledger: PostgresLedger) -> None:
    """While batches may follow the total is -1; an unknown job has no page."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1, 0, last=False), opened(2)], 1)
    page, empty = ledger.page(1, (0, -1), 1), ledger.page(2, (0, -1), 1)
    assert page is not None
    assert empty is not None
    assert (page.total, empty.total) == (-1, -1)
    assert ledger.page(3, (0, -1), 1) is None


def test_attempts_of_a_task_add_up(kind: Kind) -> None:
    """Two attempts and a stale outcome of one task come back in order with their causes."""
    ledger = kind.make()
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1), failed(1, 1, 1, 2, Cause.NODE_FAIL), failed(1, 1, 1, 1)], 1)
    ledger.commit([failed(1, 1, 1, 1, Cause.STALE), failed(1, 1, 0, 1)], 2)
    ledger.close()
    found = kind.make().take_over("there").attempts
    assert [(a.offset, a.attempt) for a in found] == [(0, 1), (1, 1), (1, 1), (1, 2)]
    assert {a.cause for a in found} == {Cause.CRASH, Cause.STALE, Cause.NODE_FAIL}


def test_a_second_broker_is_refused_with_the_name_of_the_first(kind: Kind) -> None:
    """While one broker lives another cannot take over, and learns who it is; after its end it can."""
    first, second = kind.make(), kind.make()
    first.take_over("login3 pid 4711")
    with pytest.raises(BrokerHeld, match="login3 pid 4711"):
        second.take_over("login4 pid 1")
    first.commit([opened(1), admitted(1, 1)], 1)
    first.close()
    assert second.take_over("login4 pid 1").epoch == 2


def test_a_fenced_broker_cannot_commit(kind: Kind) -> None:
    """The first broker loses its session, a second takes over: the first is told so and writes nothing."""
    first, second = kind.make(), kind.make()
    first.take_over("login3 pid 4711")
    kind.cut()
    second.take_over("login4 pid 1")
    with pytest.raises(StaleEpoch, match="login4 pid 1"):
        first.commit([opened(1), admitted(1, 1)], 1)
    second.commit([opened(1), admitted(1, 1)], 1)
    found = second.find_job("ada", opened(1).key)
    assert found is not None
    assert (found.opened, found.next_number) == (opened(1), 1)


def test_a_broker_that_lost_its_session_goes_on_by_itself(kind: Kind) -> None:
    """Nobody else took over: the next commit has a new epoch, and what was committed is there once."""
    ledger = kind.make()
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    for seq in (2, 3):
        kind.cut()
        ledger.commit([opened(seq), admitted(seq, seq)], seq)
        assert ledger.epoch == seq
    ledger.close()
    found = kind.make().take_over("there")
    assert [b.batch for b in found.batches] == [1, 2, 3]


def test_an_empty_batch_can_end_a_job(ledger: PostgresLedger) -> None:
    """A client that does not know the end beforehand closes its job with a batch of no tasks."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1, 0, last=False), admitted(2, 1, 1, 3, 0), closed(2)], 1)
    page = ledger.page(1, (0, -1), 1)
    assert page is not None
    assert page.total == 3


def test_the_latest_of_what_was_learned_is_read_again(kind: Kind) -> None:
    """Durations of three kinds, one of them twice, in small groups and large: a takeover has the latest of each."""
    ledger = kind.make()
    ledger.take_over("first")
    ledger.commit([learned(1, completed=1), learned(2, at=3000.0), opened(1), admitted(1, 1)], 1)
    if ledger.start([learned(1, completed=7, at=3001.0)], 2):  # the express lane
        while not ledger.poll():
            select.select([ledger.waitable], [], [], 5.0)
    else:
        ledger.commit([learned(1, completed=7, at=3001.0)], 2)
    ledger.commit([learned(1, code=9, at=2000.0), *(settled(1, 1, lo, 1) for lo in range(3))], 3)
    ledger.close()
    found = kind.make().take_over("second").durations
    assert found == [learned(1, completed=7, at=3001.0), learned(1, code=9, at=2000.0), learned(2, at=3000.0)]
    kind.cut()
    assert kind.make().take_over("third").durations == found


def test_a_takeover_knows_what_is_on_hold(kind: Kind) -> None:
    """Jobs on hold, released and on hold again, in small groups and large; one has ended and is not told of."""
    ledger = kind.make()
    ledger.take_over("first")
    first = [opened(1), hold(1), admitted(1, 1), opened(2), admitted(2, 2), opened(3), hold(3), admitted(3, 3)]
    ledger.commit([*first, settled(3, 3), closed(3)], 1)
    if ledger.start([hold(1, 1, False), hold(2)], 2):  # the express lane
        while not ledger.poll():
            select.select([ledger.waitable], [], [], 5.0)
    else:
        ledger.commit([hold(1, 1, False), hold(2)], 2)
    ledger.commit([hold(1, 2), *(opened(job) for job in range(10, 20))], 3)
    ledger.close()
    found = kind.make().take_over("second").holds
    assert found == [hold(1), hold(1, 1, False), hold(1, 2), hold(2)]
    kind.cut()
    assert kind.make().take_over("third").holds == found
