"""What only the ledger on Postgres can be asked: lost connections, plans, partitions, migrations."""

from __future__ import annotations

import random
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from ledger_fixture import administer
from ledger_proxy import Proxy
from records import admitted, carrying, closed, failed, opened, settled

from pyfi_hpc.errors import LedgerUnavailable, SettingsError, StaleEpoch
from pyfi_hpc.ledger import schema, tables
from pyfi_hpc.ledger.blocks import BLOCK_BYTES, PARTITION_JOBS
from pyfi_hpc.ledger.connection import QUERIES, engine_url, large_rows, libpq_url, shown
from pyfi_hpc.ledger.embedded import EmbeddedServer
from pyfi_hpc.ledger.postgres import PostgresLedger


@pytest.fixture
def proxy(ledger_url: str, ledger_server: EmbeddedServer) -> Iterator[Proxy]:
    made = Proxy(ledger_url, ledger_server.run)
    yield made
    made.close()


@pytest.fixture
def ledger(proxy: Proxy) -> Iterator[PostgresLedger]:
    made = PostgresLedger(proxy.url, commit_s=1.0)
    yield made
    made.close()


def commit(ledger: PostgresLedger, records: list[Any], seq: int) -> None:
    """As the loop does it: a small group by the express lane, everything else and what went wrong there after it."""
    try:
        if ledger.start(records, seq):
            while not ledger.poll():
                assert select.select([ledger.waitable], [], [], 10)[0]
            return
    except LedgerUnavailable:
        pass
    ledger.commit(records, seq)


def batches_of(url: str) -> list[int]:
    return [int(str(row[0])) for row in administer(url, "SELECT batch FROM task_batch ORDER BY batch")]


@pytest.mark.parametrize("how", ["request", "reply", "mute"])
@pytest.mark.parametrize(
    ("statement", "jobs"),
    [(b"BEGIN", 1), (b"BEGIN", 9), (b"COPY job", 9), (b"COPY task_batch", 9), (b"COMMIT", 1), (b"COMMIT", 9)],
)
def test_a_commit_of_unknown_outcome_is_looked_up(
    proxy: Proxy, ledger: PostgresLedger, ledger_url: str, statement: bytes, jobs: int, how: str
) -> None:
    """Cut or silence the connection at each statement of a commit, one message or COPY: all is there once."""
    ledger.take_over("here")
    commit(ledger, [opened(1), admitted(1, 1)], 1)
    proxy.arm(statement, how)
    started = time.monotonic()
    group = [record for n in range(2, 2 + jobs) for record in (opened(n), admitted(n, n))]
    commit(ledger, group, 2)
    assert proxy.fired
    assert time.monotonic() - started < 8
    assert ledger.epoch == 2
    commit(ledger, [opened(50), admitted(50, 50)], 3)
    assert batches_of(ledger_url) == [1, *range(2, 2 + jobs), 50]


def test_small_groups_go_by_the_express_lane(proxy: Proxy, ledger: PostgresLedger) -> None:
    """A lone call's records do, many or large ones do not; with the lane gone, ``commit`` brings it back."""
    ledger.take_over("here")
    commit(ledger, [opened(1), admitted(1, 1)], 1)
    assert ledger.start([opened(2), admitted(2, 2)], 2)
    while not ledger.poll():
        assert select.select([ledger.waitable], [], [], 10)[0]
    assert not ledger.start([record for n in range(3, 8) for record in (opened(n), admitted(n, n))], 3)
    proxy.arm(b"COMMIT", "reply")
    commit(ledger, [opened(3), admitted(3, 3)], 3)
    assert proxy.fired
    assert not ledger.start([opened(4), admitted(4, 4)], 4)
    ledger.commit([opened(4), admitted(4, 4)], 4)
    time.sleep(1.1)  # the lane is tried once a second
    ledger.commit([opened(5), admitted(5, 5)], 5)
    assert ledger.start([opened(6), admitted(6, 6)], 6)


def test_an_idle_lane_that_is_lost_lets_the_loop_sleep(ledger: PostgresLedger, ledger_url: str) -> None:
    """The server ends all sessions of an idle broker: a look closes the lane, the next commit goes without it."""
    ledger.take_over("here")
    commit(ledger, [opened(1), admitted(1, 1)], 1)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pyfi ledger'"
    administer(ledger_url, terminate)
    assert select.select([ledger.waitable], [], [], 5)[0]
    looks = 0
    while select.select([ledger.waitable], [], [], 0.1)[0]:
        assert not ledger.poll()
        looks += 1
        assert looks < 4
    commit(ledger, [opened(2), admitted(2, 2)], 2)
    assert batches_of(ledger_url) == [1, 2]


def test_what_the_server_refuses_is_told_by_commit(ledger: PostgresLedger) -> None:
    """A group that breaks a constraint: the lane lets go of it without a takeover, ``commit`` raises the reason."""
    ledger.take_over("here")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        commit(ledger, [opened(1), opened(1)], 1)
    assert ledger.epoch == 1
    commit(ledger, [opened(1), admitted(1, 1)], 1)


def test_a_commit_is_tried_again_until_the_server_is_back(
    proxy: Proxy, ledger: PostgresLedger, ledger_url: str
) -> None:
    """The commit's answer is lost, then the server refuses: the same call later finds it done."""
    ledger.take_over("here")
    proxy.arm(b"COMMIT", "reply")
    proxy.refusing = True
    group = [opened(1), admitted(1, 1)]
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            commit(ledger, group, 1)
    proxy.refusing = False
    commit(ledger, group, 1)
    assert batches_of(ledger_url) == [1]
    assert ledger.epoch == 2


def test_a_broker_replaced_while_it_was_away_is_stale(proxy: Proxy, ledger: PostgresLedger, ledger_url: str) -> None:
    """While the first broker cannot reach the server another takes over: the first must end, not go on."""
    ledger.take_over("first")
    proxy.arm(b"COMMIT", "request")
    proxy.refusing = True
    with pytest.raises(LedgerUnavailable):
        commit(ledger, [opened(1), admitted(1, 1)], 1)
    second = PostgresLedger(ledger_url)
    second.take_over("second")
    second.commit([opened(1), admitted(1, 1)], 1)
    proxy.refusing = False
    with pytest.raises(StaleEpoch, match="second"):
        commit(ledger, [opened(1), admitted(1, 1)], 1)
    second.close()
    # also when the second has ended since: its epoch counts, not whether it lives
    with pytest.raises(StaleEpoch, match="second"):
        commit(ledger, [opened(1), admitted(1, 1)], 1)


def test_a_takeover_ends_a_commit_that_hangs(ledger_url: str) -> None:
    """A session sits in a commit and holds the fence: the takeover ends it, and nothing of it stays."""
    first = PostgresLedger(ledger_url)
    first.take_over("first")
    hanging = psycopg2.connect(libpq_url(ledger_url))
    hanging.autocommit = True
    with hanging.cursor() as cursor:
        values = {"class": 0x70796669, "shard": 0, "epoch": 1, "seq": 1, "lo": [], "hi": []}
        counts = dict.fromkeys(("jobs", "batches", "outcomes", "attempts"), 0)
        cursor.execute(QUERIES["begin"], values | counts)
        # the function must take the lock that the takeover waits for
    first.close()
    second = PostgresLedger(ledger_url)
    assert second.take_over("second").epoch == 2
    with pytest.raises(psycopg2.Error), hanging.cursor() as cursor:
        cursor.execute("COMMIT")
    assert administer(ledger_url, "SELECT count(*) FROM ledger_commit") == [(0,)]
    hanging.close()
    second.close()


def test_a_read_survives_a_lost_connection(proxy: Proxy, ledger: PostgresLedger) -> None:
    """The idle connection of reads was cut: the next read makes a new one and nobody notices."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    assert ledger.find_job("ada", opened(1).key) is not None
    proxy.arm(b"FROM job j LEFT JOIN", "reply")
    assert ledger.find_job("ada", opened(1).key) is not None
    assert proxy.fired


def test_a_read_survives_a_server_that_warned_before_it_went(proxy: Proxy, ledger: PostgresLedger) -> None:
    """Another backend was killed: Postgres warns idle sessions and ends them, which psycopg2 tells as no lost line."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    assert ledger.find_job("ada", opened(1).key) is not None
    fields = b"SWARNING\0C57P02\0Mterminating connection because of crash of another server process\0\0"
    proxy.cut(last_words=b"N" + (4 + len(fields)).to_bytes(4, "big") + fields)
    assert ledger.find_job("ada", opened(1).key) is not None


def test_a_long_read_does_not_hold_up_commits(ledger_url: str) -> None:
    """One thread reads pages all the time while another commits; both see what they must."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1, 0, 0, last=False)], 1)
    stop, problems = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                assert ledger.page(1, (0, -1), 1 << 20) is not None  # type: ignore[arg-type]
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(2, 60):
        ledger.commit([admitted(n, 1, n - 1, 3 * n - 3, last=False), settled(n, 1)], n)
    stop.set()
    thread.join()
    ledger.close()
    assert problems == []


def test_partitions_are_made_when_jobs_need_them(ledger_url: str) -> None:
    """Jobs far apart go to partitions of their own, made inside the commit, and are found again."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    far = 3 * PARTITION_JOBS
    ledger.commit([opened(1), admitted(1, 1), opened(far), admitted(2, far), settled(2, far)], 1)
    ledger.commit([opened(far + 1), admitted(3, far + 1)], 2)
    assert len(ledger.payloads([1, 2, 3])) == 3  # type: ignore[list-item]
    ledger.close()
    names = administer(ledger_url, "SELECT inhrelid::regclass::text FROM pg_inherits "
                       "WHERE inhparent = 'task_batch'::regclass ORDER BY 1")  # fmt: skip
    assert [name for (name,) in names] == ["task_batch_p0", "task_batch_p2", "task_batch_p3"]
    ledger = PostgresLedger(ledger_url)
    assert ledger.take_over("again").next_job == far + 2
    ledger.close()


def test_a_partition_of_a_commit_that_failed_is_made_again(ledger_url: str) -> None:
    """The group that first needs a partition is refused: the partition comes with the next."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    far = 5 * PARTITION_JOBS
    twice = [opened(far), opened(far)]
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ledger.commit([*twice, admitted(1, far)], 1)
    ledger.commit([opened(far), admitted(1, far)], 1)
    ledger.close()


def test_ranges_are_merged_in_passing(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed ranges are merged and old commits forgotten by every so many commits: neither piles up."""
    monkeypatch.setattr("pyfi_hpc.ledger.postgres._TIDY_ROWS", 10)
    monkeypatch.setattr("pyfi_hpc.ledger.postgres._COMMITS_KEPT", 25)
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit([r for n in range(1, 61) for r in (opened(n), admitted(n, n))], 1)
    for n in range(1, 41):
        ledger.commit([closed(61 - n)], n + 1)
    rows = administer(ledger_url, "SELECT count(*), min(lo), max(hi) FROM closed_range")
    assert int(str(rows[0][0])) <= 13
    assert rows[0][1:] == (21, 60)
    assert administer(ledger_url, "SELECT min(seq), max(seq) FROM ledger_commit") == [(15, 41)]
    ledger.close()


def test_rows_by_binary_copy_are_those_of_the_query(ledger_url: str) -> None:
    """Integers of all widths and signs, bytes of all lengths, values that need quoting, and no row at all."""
    connection = psycopg2.connect(libpq_url(ledger_url))
    query = """SELECT n::smallint, -n::int, n::bigint << 40, decode(repeat('ab', n), 'hex'), %(odd)s::bytea
               FROM generate_series(%(lo)s, %(hi)s) AS n  -- the last line may end with words"""
    odd = b"%s \\ ' \0 )"
    with connection.cursor() as cursor:
        wanted = [(n, -n, n << 40, b"\xab" * n, odd) for n in range(300)]
        assert large_rows(cursor, query, {"lo": 0, "hi": 299, "odd": odd}, "iiibb") == wanted
        assert large_rows(cursor, query, {"lo": 1, "hi": 0, "odd": odd}, "iiibb") == []
    connection.close()


# --- large values -----------------------------------------------------------------------------------


def _with(n: int, *values: bytes) -> list[Any]:
    return [opened(n), carrying(admitted(n, n, count=len(values)), *values)]


def _stored(url: str) -> int:
    """Bytes of all blocks."""
    return int(str(administer(url, "SELECT coalesce(sum(octet_length(data)), 0) FROM block")[0][0]))


def test_equal_values_are_stored_once(ledger_url: str) -> None:
    """The same model in many calls, first of their arguments, and as a result: kept once; the rest costs its block."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    model = random.Random(1).randbytes(10 * BLOCK_BYTES)
    for n in range(1, 6):
        ledger.commit(_with(n, model), n)
    assert _stored(ledger_url) == len(model)
    ledger.commit([carrying(settled(1, 1, 0, 1), model), carrying(settled(2, 2, 0, 1), model)], 6)
    assert _stored(ledger_url) == len(model)
    ledger.commit(_with(7, model + b"7") + _with(8, model + b"8") + _with(9, b"first", model, b"last"), 7)
    assert _stored(ledger_url) == len(model) + 1 + 1 + len("first") + len("last")
    ledger.close()


def test_a_batch_of_small_values_is_kept_in_its_row(ledger_url: str) -> None:
    """A MB of small arguments is not cut: to look at each costs more than it brings."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit(_with(1, *[bytes(500)] * 2000), 1)
    assert _stored(ledger_url) == 0
    ledger.close()


@pytest.mark.parametrize("how", ["request", "reply"])
@pytest.mark.parametrize("statement", [b"COPY block", b"COMMIT"])
def test_blocks_of_a_lost_commit_are_not_taken_for_stored(
    proxy: Proxy, ledger: PostgresLedger, ledger_url: str, statement: bytes, how: str
) -> None:
    """Cut the commit that brings a value, then commit the same value in another batch: both are read back."""
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    value = random.Random(2).randbytes(200_000)
    proxy.arm(statement, how)
    ledger.commit(_with(2, value), 2)
    assert proxy.fired
    ledger.commit(_with(3, value), 3)
    assert [payload for _, _, payload in ledger.payloads([2, 3])] == [value, value]  # type: ignore[list-item]
    assert _stored(ledger_url) <= 2 * len(value)


def test_blocks_of_a_refused_commit_are_not_taken_for_stored(ledger_url: str) -> None:
    """A group with a large value is refused by a constraint: the same value is stored by the next one."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    value = random.Random(3).randbytes(200_000)
    with pytest.raises(psycopg2.errors.CheckViolation):
        ledger.commit([*_with(1, value), replace(admitted(2, 1, 1, 3), count=-1)], 1)
    assert _stored(ledger_url) == 0
    ledger.commit(_with(1, value), 1)
    assert [payload for _, _, payload in ledger.payloads([1])] == [value]  # type: ignore[list-item]
    ledger.close()


def test_a_new_broker_goes_on_with_higher_blocks(ledger_url: str) -> None:
    """Three brokers, one after the other, store the same value: nobody's blocks are overwritten, and all is read."""
    value = random.Random(4).randbytes(200_000)
    for n in range(1, 4):
        ledger = PostgresLedger(ledger_url)
        ledger.take_over("here")
        ledger.commit(_with(n, value), 1)
        read = ledger.payloads(range(1, n + 1))  # type: ignore[arg-type]
        assert [payload for _, _, payload in read] == [value] * n
        ledger.close()
    assert _stored(ledger_url) == 3 * len(value)


def test_the_oldest_partitions_can_be_dropped_together(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small partitions: a job refers to no block before its own partition, so what is dropped is missed by nobody."""
    monkeypatch.setattr("pyfi_hpc.ledger.postgres.PARTITION_JOBS", 10)
    monkeypatch.setattr("pyfi_hpc.ledger.blocks.PARTITION_JOBS", 10)
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    value = random.Random(5).randbytes(200_000)
    for seq, n in enumerate((3, 9, 10, 4, 12, 25), 1):
        ledger.commit(_with(n, value), seq)
    assert _stored(ledger_url) == 3 * len(value)
    for table in (*tables.PARTITIONED, "block"):
        administer(ledger_url, f"DROP TABLE {table}_p0")
    kept = [10, 12, 25]
    assert [payload for _, _, payload in ledger.payloads(kept)] == [value] * 3  # type: ignore[arg-type]
    ledger.close()


def test_a_missing_block_is_told_as_damage(ledger_url: str) -> None:
    """Delete a block by hand: reading its batch names it and says what to do; other batches are read."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    rng = random.Random(6)
    ledger.commit(_with(1, rng.randbytes(200_000)) + _with(2, rng.randbytes(200_000)), 1)
    administer(ledger_url, "DELETE FROM block WHERE number = 2")
    with pytest.raises(psycopg2.errors.DataCorrupted, match=r"1 of the blocks \{1,2,3,4\} are missing"):
        ledger.payloads([1])  # type: ignore[list-item]
    assert len(ledger.payloads([2])[0][2]) == 200_000  # type: ignore[list-item]
    ledger.close()


def test_sizes_in_sql_are_those_of_the_package() -> None:
    """The upper bound of a range's size counts whole blocks."""
    assert f"cardinality(blocks), 0) * {BLOCK_BYTES}" in QUERIES["page_sizes"]


def test_sessions_that_are_killed_all_the_time_lose_and_double_nothing(ledger_url: str) -> None:
    """For two seconds the broker's sessions are ended at random moments while it commits small groups without pause."""
    ledger = PostgresLedger(ledger_url, commit_s=2.0)
    ledger.take_over("here")
    stop, kills = threading.Event(), []

    def kill() -> None:
        wait = random.Random(7)
        while not stop.wait(wait.uniform(0.005, 0.06)):
            kills.extend(
                administer(
                    ledger_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'pyfi ledger'",
                )
            )  # fmt: skip

    killer = threading.Thread(target=kill)
    killer.start()
    number, until = 0, time.monotonic() + 2
    while time.monotonic() < until:
        number += 1
        group = [opened(number), admitted(number, number), settled(number, number), closed(number)]
        while True:
            try:
                commit(ledger, group, number)
                break
            except LedgerUnavailable:
                pass
    stop.set()
    killer.join()
    assert len(kills) > 10
    assert batches_of(ledger_url) == list(range(1, number + 1))
    assert administer(ledger_url, "SELECT count(*) FROM outcome_batch") == [(number,)]
    ledger.close()
    found = PostgresLedger(ledger_url)
    assert found.take_over("again").batches == []
    found.close()


def test_names_with_odd_characters_do_not_stop_the_ledger(ledger_url: str) -> None:
    """Postgres has no place for NUL in text: it is dropped, everything else comes back."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    job = replace(opened(1), name="a\0b \ud800 é 名 \\N \t'", owner="o\0")
    ledger.commit([job, admitted(1, 1)], 1)  # type: ignore[list-item]
    page = ledger.page(1, (0, -1), 1)  # type: ignore[arg-type]
    assert page is not None
    assert (page.name, page.owner) == ("ab ? é 名 \\N \t'", "o")
    ledger.close()


@pytest.mark.parametrize(
    "broken",
    [
        replace(settled(1, 1), states=b"\3"),
        replace(settled(1, 1), offsets=b"\0\0\0\0"),
        replace(settled(1, 1), started=b"\0"),
        replace(admitted(2, 1, 1, 3), count=-1),
        replace(failed(1, 1), offset=-1),
    ],
)
def test_constraints_refuse_what_cannot_be(ledger_url: str, broken: object) -> None:
    """A packed column of the wrong length, a count below 0: refused, and nothing of the group stays."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    with pytest.raises(psycopg2.errors.CheckViolation):
        ledger.commit([opened(1), admitted(1, 1), broken], 1)  # type: ignore[list-item]
    assert batches_of(ledger_url) == []
    ledger.close()


def test_no_server_and_no_tables_are_told_apart(ledger_server: EmbeddedServer, tmp_path: object) -> None:
    """No server is transient; a database without tables names the command that makes them."""
    nowhere = f"postgresql://x@/y?host={tmp_path}"
    for act in (lambda: PostgresLedger(nowhere).take_over("here"), lambda: schema.upgrade(nowhere)):
        with pytest.raises(LedgerUnavailable, match="does not take this now"):
            act()
    bare = ledger_server.url.replace("/pyfi?", "/postgres?")
    with pytest.raises(SettingsError, match="pyfi db upgrade"):
        PostgresLedger(bare).take_over("here")
    with pytest.raises(SettingsError, match="not a Postgres URL"):
        PostgresLedger("mysql://x")


def test_urls_name_the_driver_and_hide_the_password() -> None:
    """Every spelling becomes psycopg2 for SQLAlchemy and plain for libpq."""
    for given in ("postgres://u:pw@h/d", "postgresql://u:pw@h/d", "postgresql+psycopg://u:pw@h/d"):
        assert engine_url(given) == "postgresql+psycopg2://u:pw@h/d"
        assert libpq_url(given) == "postgresql://u:pw@h/d"
    assert "pw" not in shown("postgresql://u:pw@h/d?password=pw")
