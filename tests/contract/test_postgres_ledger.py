"""What only the ledger on Postgres can be asked: lost connections, plans, partitions, migrations."""

from __future__ import annotations

import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from ledger_fixture import administer
from ledger_proxy import Proxy
from records import admitted, closed, failed, opened, settled

from pyfi_hpc.errors import LedgerUnavailable, SettingsError, StaleEpoch
from pyfi_hpc.ledger import schema, tables
from pyfi_hpc.ledger.calls import QUERIES as REPORTS
from pyfi_hpc.ledger.connection import QUERIES, engine_url, libpq_url, make_engine, shown
from pyfi_hpc.ledger.embedded import EmbeddedServer
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.queries import text_of
from pyfi_hpc.model.states import Cause, TaskState


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
    far = 3 * tables.PARTITION_JOBS
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
    far = 5 * tables.PARTITION_JOBS
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


# --- schema -----------------------------------------------------------------------------------------

_CATALOGUE = {
    "columns": """SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
                  FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2""",
    "storage": """SELECT attrelid::regclass::text, attname, attstorage FROM pg_attribute
                  WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')) ORDER BY 1, 2""",
    "constraints": """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
                      WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "indexes": """SELECT tablename, indexname, indexdef FROM pg_indexes
                  WHERE schemaname = 'public' ORDER BY 1, 2""",
    "partitioning": """SELECT partrelid::regclass::text, pg_get_partkeydef(partrelid)
                       FROM pg_partitioned_table ORDER BY 1""",
}


def test_migrations_equal_the_models(new_ledger: Callable[[], str], ledger_server: EmbeddedServer) -> None:
    """Compare the catalogue of a migrated ledger with one that SQLAlchemy makes from the models."""
    migrated, made = new_ledger(), new_ledger()
    administer(made, "DROP SCHEMA public CASCADE")
    administer(made, "CREATE SCHEMA public")
    engine = make_engine(made)
    tables.Base.metadata.create_all(engine)
    engine.dispose()
    administer(migrated, text_of("drop_views.sql"))
    for what, statement in _CATALOGUE.items():
        left = [row for row in administer(migrated, statement) if "alembic_version" not in str(row)]
        assert left == administer(made, statement), what
    engine = make_engine(migrated)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.Base.metadata) == []
    engine.dispose()


def test_an_upgrade_can_be_repeated_and_a_newer_ledger_is_refused(ledger_url: str) -> None:
    """Upgrade twice with data in it; then pretend that a newer version was here."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    ledger.close()
    assert schema.upgrade(ledger_url) == schema.head()
    assert batches_of(ledger_url) == [1]
    administer(ledger_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="newer version"):
        schema.upgrade(ledger_url)


def test_views_show_one_row_a_task(ledger_url: str) -> None:
    """Tasks, attempts and calls as SQL tools see them; the words are those of the states and causes."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1), settled(1, 1, 1, 2), failed(1, 1, 1, 1)], 1)
    ledger.close()
    rows = administer(ledger_url, "SELECT id, state, code, node, rank, extract(epoch FROM started)::float8, "
                      "duration_s "
                      "FROM task ORDER BY index")  # fmt: skip
    assert rows == [
        ("1.0", "PENDING", "PD", None, None, None, None),
        ("1.1", "COMPLETED", "CD", "n1", 5, 100.25, 0.5),
        ("1.2", "COMPLETED", "CD", "n1", 5, 101.25, 0.5),
    ]
    rows = administer(ledger_url, "SELECT id, attempt, outcome, node FROM attempt ORDER BY id, attempt")
    assert rows == [("1.1", 1, "CRASH", "n2"), ("1.1", 2, "COMPLETED", "n1"), ("1.2", 2, "COMPLETED", "n1")]
    rows = administer(ledger_url, "SELECT id, owner, job_name, state FROM call WHERE state = 'PENDING'")
    assert rows == [("1.0", "ada", "job 1", "PENDING")]


def test_words_in_sql_are_those_of_the_package(ledger_url: str) -> None:
    """ledger_state, ledger_state_code and ledger_cause know every member, with the same words."""
    for state in TaskState:
        row = administer(ledger_url, "SELECT ledger_state(%s), ledger_state_code(%s)", int(state), int(state))
        assert row == [(state.word, state.code)]
    for cause in Cause:
        assert administer(ledger_url, "SELECT ledger_cause(%s)", int(cause)) == [(cause.name,)]


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1795200587.17132, 1e-3, 123456789.123456789, 2.0**60])
def test_packed_numbers_are_read_in_sql(ledger_url: str, value: float) -> None:
    """float8_at and float4_at decode what struct packs, and nothing where there is nothing."""
    from struct import pack, unpack

    eight, four = pack("<dd", 7.0, value), pack("<ff", 7.0, value)
    row = administer(ledger_url, "SELECT float8_at(%s, 1), float4_at(%s, 1), float8_at('', 0), "
                     "float4_at(NULL, 0)",
                     eight, four)  # fmt: skip
    assert row == [(value, unpack("<f", four[4:])[0], None, None)]


# --- plans ------------------------------------------------------------------------------------------

_PLANS = [
    ("open_jobs", {"lo": [90_000], "hi": [2**63 - 1]}, QUERIES),
    ("payloads", {"batches": [5, 6]}, QUERIES),
    ("locate_values", {"jobs": [7, 9], "indexes": [0, 0]}, QUERIES),
    ("page_sizes", {"job": 7, "batch": 0, "lo": -1, "limit": 100}, QUERIES),
    ("page", {"job": 7, "batch": 0, "lo": -1, "batch_to": 9, "lo_to": 0}, QUERIES),
    ("find_job", {"owner": "o", "key": b"\1" * 16}, QUERIES),
    ("job_outcomes", {"jobs": [7]}, QUERIES),
    ("batches_before",
     {"before_job": 2**62, "before_first": 0, "job_from": 0, "job_to": 2**62, "limit": 50}, REPORTS),
    ("outcome_of", {"job": 7, "batch": 7, "offset": 0}, REPORTS),
]  # fmt: skip


@pytest.fixture(scope="module")
def filled(ledger_server: EmbeddedServer) -> Iterator[str]:
    """A ledger with 20,000 batches in two partitions, analysed, so that the planner has a choice."""
    administer(ledger_server.url, "CREATE DATABASE filled TEMPLATE template_ledger")
    url = ledger_server.url.replace("/pyfi?", "/filled?")
    administer(url, "SELECT ledger_partition(0, 10000), ledger_partition(1, 10000)")
    for table, columns, values in (
        ("job", "id, on_failure, opened_at, epoch, key, owner, name, shape",
         "n, 0, 0, 1, decode(lpad(to_hex(n), 32, '0'), 'hex'), 'o', 'n', ''"),
        ("task_batch", "batch, job, number, first, count, last, socket, code, priority, retries,"
         " time_limit_s, epoch, offsets, payload",
         "n, n, 0, 0, 1, true, 1, 1, 0, 0, 0, 1, '', repeat('x', 100)::bytea"),
        ("outcome_batch", "job, batch, lo, count, attempt, epoch, grant_id, rank, settled_at, node, states,"
         " started, durations, offsets, payload, outputs",
         "n, n, 0, 1, 1, 1, 1, 1, 0, 'n', '\\x03'::bytea, '', '', '', repeat('x', 100)::bytea, ''"),
    ):  # fmt: skip
        administer(url, f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, 19999) n")
    administer(url, "INSERT INTO closed_range VALUES (1, 19000)")
    administer(url, "VACUUM ANALYZE")
    yield url
    administer(ledger_server.url, "DROP DATABASE filled WITH (FORCE)")


@pytest.mark.parametrize(("name", "values", "queries"), _PLANS, ids=[plan[0] for plan in _PLANS])
def test_hot_statements_read_through_indexes(
    filled: str, name: str, values: dict[str, object], queries: dict[str, str]
) -> None:
    """Read the plan of each statement on a filled ledger: no table is read from end to end."""
    connection = psycopg2.connect(libpq_url(filled))
    with connection.cursor() as cursor:
        cursor.execute("SET jit = off")
        if name == "open_jobs":
            cursor.execute("SET enable_seqscan = off")  # as recovery does
        cursor.execute("EXPLAIN (COSTS off) " + queries[name], values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    connection.close()
    assert "Seq Scan on" not in plan, plan
    assert "Index" in plan, plan
