"""The tables of the ledger: migrations, views, the words in SQL, and how hot statements find their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from ledger_fixture import administer
from records import admitted, carrying, failed, opened, settled

from pyfi_hpc.errors import SettingsError
from pyfi_hpc.ledger import models, schema, tables
from pyfi_hpc.ledger.calls import QUERIES as REPORTS
from pyfi_hpc.ledger.connection import QUERIES, libpq_url, make_engine
from pyfi_hpc.ledger.embedded import EmbeddedServer
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.queries import text_of
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause, OnFailure, TaskState

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


_FUNCTIONS = """SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"""
_VIEWS = "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1"


def test_migrations_equal_the_models(new_ledger: Callable[[], str], ledger_server: EmbeddedServer) -> None:
    """Compare the catalogue of a migrated ledger with one that SQLAlchemy makes from the models."""
    migrated, made = new_ledger(), new_ledger()
    administer(made, "DROP SCHEMA public CASCADE")
    administer(made, "CREATE SCHEMA public")
    engine = make_engine(made)
    models.Base.metadata.create_all(engine)
    engine.dispose()
    administer(migrated, text_of("drop_views.sql"))
    for what, statement in _CATALOGUE.items():
        left = [row for row in administer(migrated, statement) if "alembic_version" not in str(row)]
        assert left == administer(made, statement), what
    engine = make_engine(migrated)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.Base.metadata) == []
    engine.dispose()


def test_an_empty_ledger_is_made_as_alembic_would(new_ledger: Callable[[], str]) -> None:
    """The short way for a new ledger against all migrations one by one: the same catalogue, the same mark."""
    short, long = new_ledger(), new_ledger()
    for url in (short, long):
        administer(url, "DROP SCHEMA public CASCADE")
        administer(url, "CREATE SCHEMA public")
    assert schema.upgrade(short) == schema.migrate(long) == schema.head()
    mark = "SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version"
    for what, statement in {**_CATALOGUE, "mark": mark, "functions": _FUNCTIONS, "views": _VIEWS}.items():
        assert administer(short, statement) == administer(long, statement), what


def test_an_upgrade_can_be_repeated_and_a_newer_ledger_is_refused(ledger_url: str) -> None:
    """Upgrade twice with data in it; then pretend that a newer version was here."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    ledger.commit([opened(1), admitted(1, 1)], 1)
    ledger.close()
    assert schema.upgrade(ledger_url) == schema.head()
    assert administer(ledger_url, "SELECT batch FROM task_batch") == [(1,)]
    administer(ledger_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="newer version"):
        schema.upgrade(ledger_url)


def test_a_ledger_of_the_first_schema_is_upgraded_with_its_data(ledger_url: str) -> None:
    """Make the tables of schema 0001 with a partition and rows, as an earlier version left them; upgrade and go on."""
    administer(ledger_url, "DROP SCHEMA public CASCADE")
    administer(ledger_url, "CREATE SCHEMA public")
    engine = make_engine(ledger_url)
    with engine.begin() as connection:
        command.upgrade(schema.configuration(connection), "0001")
    engine.dispose()
    for table in tables.PARTITIONED:
        administer(ledger_url, f"CREATE TABLE {table}_p0 PARTITION OF {table} FOR VALUES FROM (0) TO (100000)")
    old = b"\1" * 200_000
    administer(ledger_url, "INSERT INTO ledger_epoch VALUES (0, 7, 'somebody', 'nonce')")
    administer(ledger_url, "INSERT INTO job VALUES (1, 41, 1.0, 7, %s, 'ada', 'old', '')", b"k" * 16)
    administer(ledger_url, "INSERT INTO task_batch VALUES (1, 1, 0, 0, 1, true, 1, 1, 0, 0, 0, 7, %s, %s)",
               offsets_of([old]), old)  # fmt: skip
    assert schema.upgrade(ledger_url) == schema.head()
    ledger = PostgresLedger(ledger_url)
    found = ledger.take_over("here")
    assert [(batch.batch, batch.preemptible) for batch in found.batches] == [(1, False)]
    # what a failure does and how many may run at once were one number
    assert [(job.on_failure, job.at_once, job.project) for job in found.jobs] == [(OnFailure.CANCEL, 20, "")]
    new = b"\2" * 200_000
    done = carrying(settled(1, 1, 0, 1), new)
    ledger.commit([opened(2), carrying(admitted(2, 2, count=1), new), done], 1)
    assert [payload for _, _, payload in ledger.payloads([1, 2])] == [old, new]  # type: ignore[list-item]
    assert ledger.values([(1, 0)])[1, 0][1] == new  # type: ignore[list-item,index]
    ledger.close()


def test_a_start_looks_before_it_upgrades(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done again to a ledger that is up to date; it is where tables, functions or the mark differ."""
    administer(ledger_url, "DROP VIEW call")
    schema.ensure(ledger_url)
    assert administer(ledger_url, "SELECT to_regclass('call')::text") == [(None,)]
    administer(ledger_url, "COMMENT ON TABLE alembic_version IS 'pyfi 0001 of other files'")
    schema.ensure(ledger_url)
    assert administer(ledger_url, "SELECT to_regclass('call')::text") == [("call",)]
    administer(ledger_url, "DROP SCHEMA public CASCADE")
    administer(ledger_url, "CREATE SCHEMA public")
    schema.ensure(ledger_url)
    monkeypatch.setattr(schema, "upgrade", lambda url: pytest.fail("it was up to date"))
    schema.ensure(ledger_url)
    administer(ledger_url, "UPDATE alembic_version SET version_num = '9999'")
    monkeypatch.undo()
    with pytest.raises(SettingsError, match="newer version"):
        schema.ensure(ledger_url)


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
