"""Tables of the hot path, appended by COPY and never updated: a row per batch, outcome range, failed attempt.

::

    job 1---n task_batch 1---n outcome_batch          final, for ever
               |   1---0..1 edge                      what its tasks wait for
               |   1---n attempt_failed               what went wrong and was tried again
    block           pieces of large arguments and results, equal ones once, see blocks.py
    job_hold        when a job was put on hold and released, its latest row counts
    duration        how long each kind of task took, the latest row of a kind counts
    closed_range    intervals of batch ids that are entirely final: recovery reads the gaps
    ledger_commit   one row per group commit: did it commit?
    ledger_epoch    one row per broker shard: who may write

Per-task columns (``states``, ``offsets`` ...) are packed byte strings, see ``model.records``. They are
stored EXTERNAL: not compressed, so that COPY costs a copy and a slice is read without the rest. A large payload is
the blocks whose numbers ``blocks`` names, and ``payload`` is empty (``ledger_payload`` reads either). The four big
tables are partitioned by ranges of jobs, blocks by the range of the job that brought them, and the writer makes
partitions on demand (``ledger_partition``).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase

PARTITIONED = ("task_batch", "outcome_batch", "attempt_failed", "edge")


class Base(DeclarativeBase):
    metadata = sa.MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )


def _required(name: str, kind: type[sa.types.TypeEngine[Any]], before: str | None = None) -> sa.Column[Any]:
    """A column without nulls; ``before``: what rows have that are older than the column."""
    return sa.Column(name, kind, nullable=False, server_default=before if before is None else sa.text(before))


def _seconds(name: str) -> sa.Column[float]:
    """Seconds since 1970, UTC, as the records have it; the views show it as a timestamp."""
    return sa.Column(name, sa.Double, nullable=False)


def _packed(width: int, column: str, or_none: bool = False) -> sa.CheckConstraint:
    """A packed column has ``width`` bytes a task; some may be empty where no attempt was made."""
    size = f"octet_length({column}) = {width} * (count + 1)" if column == "offsets" else None
    size = size or f"octet_length({column}) = {width} * count"
    text = f"{size} OR octet_length({column}) = 0" if or_none else size
    return sa.CheckConstraint(text, name=column)


job = sa.Table(
    "job", Base.metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    _required("on_failure", sa.SmallInteger),
    _seconds("opened_at"),
    _required("epoch", sa.BigInteger),
    _required("key", sa.LargeBinary),
    _required("owner", sa.Text),
    _required("name", sa.Text),
    _required("shape", sa.LargeBinary),
    _required("project", sa.Text, "''"),
    _required("at_once", sa.SmallInteger, "0"),
    sa.UniqueConstraint("owner", "key"),
    sa.CheckConstraint("id > 0", name="id"),
)  # fmt: skip

task_batch = sa.Table(
    "task_batch", Base.metadata,
    sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("job", sa.BigInteger, primary_key=True, autoincrement=False),
    _required("number", sa.Integer),
    _required("first", sa.BigInteger),
    _required("count", sa.Integer),
    _required("last", sa.Boolean),
    _required("socket", sa.BigInteger),
    _required("code", sa.BigInteger),
    _required("priority", sa.Integer),
    _required("retries", sa.Integer),
    _required("time_limit_s", sa.Double),
    _required("epoch", sa.BigInteger),
    _required("offsets", sa.LargeBinary),
    _required("payload", sa.LargeBinary),
    sa.Column("blocks", ARRAY(sa.BigInteger)),
    sa.Column("terms", sa.LargeBinary, nullable=False, server_default=sa.text("''")),
    _required("preemptible", sa.Boolean, "false"),
    sa.Column("size", sa.Double, nullable=False, server_default=sa.text("0")),
    sa.UniqueConstraint("job", "number"),
    # the way from a task's index to its batch: a job's batches come in order of their first index
    sa.UniqueConstraint("job", "first"),
    sa.CheckConstraint("count >= 0 AND first >= 0 AND number >= 0", name="range"),
    _packed(4, "offsets", or_none=True),
    postgresql_partition_by="RANGE (job)",
)  # fmt: skip

outcome_batch = sa.Table(
    "outcome_batch", Base.metadata,
    sa.Column("job", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("lo", sa.Integer, primary_key=True, autoincrement=False),
    _required("count", sa.Integer),
    _required("attempt", sa.Integer),
    _required("epoch", sa.BigInteger),
    _required("grant_id", sa.BigInteger),
    _required("rank", sa.Integer),
    _seconds("settled_at"),
    _required("node", sa.Text),
    _required("states", sa.LargeBinary),
    _required("started", sa.LargeBinary),
    _required("durations", sa.LargeBinary),
    _required("offsets", sa.LargeBinary),
    _required("payload", sa.LargeBinary),
    _required("outputs", sa.LargeBinary),
    sa.Column("blocks", ARRAY(sa.BigInteger)),
    sa.CheckConstraint("count > 0 AND lo >= 0", name="range"),
    _packed(1, "states"),
    _packed(8, "started", or_none=True),
    _packed(4, "durations", or_none=True),
    _packed(4, "offsets", or_none=True),
    postgresql_partition_by="RANGE (job)",
)  # fmt: skip

attempt_failed = sa.Table(
    "attempt_failed", Base.metadata,
    _required("job", sa.BigInteger),
    _required("batch", sa.BigInteger),
    # "offset" is a word of SQL
    _required("lo", sa.Integer),
    _required("attempt", sa.Integer),
    _required("cause", sa.SmallInteger),
    _required("epoch", sa.BigInteger),
    _required("grant_id", sa.BigInteger),
    _required("rank", sa.Integer),
    _seconds("failed_at"),
    _required("node", sa.Text),
    _required("error", sa.LargeBinary),
    _required("outputs", sa.LargeBinary),
    # not unique: a stale outcome and a lost lease may both be told of one attempt
    sa.Index(None, "job", "batch", "lo"),
    sa.CheckConstraint("lo >= 0 AND attempt >= 0", name="range"),
    postgresql_partition_by="RANGE (job)",
)  # fmt: skip

edge = sa.Table(
    "edge", Base.metadata,
    sa.Column("job", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
    # the jobs that it waits for, so that a call's dependents can be found
    sa.Column("producers", ARRAY(sa.BigInteger), nullable=False),
    _required("edges", sa.LargeBinary),
    sa.Index(None, "producers", postgresql_using="gin"),
    postgresql_partition_by="RANGE (job)",
)  # fmt: skip

block = sa.Table(
    "block", Base.metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.SmallInteger, primary_key=True, autoincrement=False),
    _required("data", sa.LargeBinary),
    postgresql_partition_by="RANGE (number)",
)  # fmt: skip

share = sa.Table(
    "share", Base.metadata,
    # "project", or "user": a submitter, within each project
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    _required("weight", sa.Double),
    sa.CheckConstraint("kind IN ('project', 'user')", name="kind"),
    sa.CheckConstraint("weight > 0 AND weight < 'infinity'::float8", name="weight"),
)  # fmt: skip

job_hold = sa.Table(
    "job_hold", Base.metadata,
    sa.Column("job", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _required("on_hold", sa.Boolean),
    _seconds("changed_at"),
    _required("epoch", sa.BigInteger),
)  # fmt: skip

duration = sa.Table(
    "duration", Base.metadata,
    # no key: rows are appended, and of each kind all but the latest are removed now and then
    _required("socket", sa.BigInteger),
    _required("code", sa.BigInteger),
    _required("size", sa.SmallInteger),
    _required("lead_s", sa.Double),
    _required("completed", sa.BigInteger),
    _seconds("learned_at"),
    _required("epoch", sa.BigInteger),
    _required("counts", sa.LargeBinary),
)  # fmt: skip

closed_range = sa.Table(
    "closed_range", Base.metadata,
    # no key: a batch may be closed again after a restart, and merging takes care of overlaps
    _required("lo", sa.BigInteger),
    _required("hi", sa.BigInteger),
    sa.CheckConstraint("lo <= hi", name="order"),
)  # fmt: skip

ledger_commit = sa.Table(
    "ledger_commit", Base.metadata,
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    _required("jobs", sa.Integer),
    _required("batches", sa.Integer),
    _required("outcomes", sa.Integer),
    _required("attempts", sa.Integer),
    _required("closed", sa.Integer),
)  # fmt: skip

ledger_epoch = sa.Table(
    "ledger_epoch", Base.metadata,
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    _required("epoch", sa.BigInteger),
    # host, pid and a number drawn by the process: tells a reconnect of ours from another broker
    _required("holder", sa.Text),
    _required("nonce", sa.Text),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    sa.CheckConstraint("epoch >= 0", name="epoch"),
)  # fmt: skip

#: columns that are stored as they come, see above; PLAIN: always in their row
STORAGE = {
    "task_batch": dict.fromkeys(("offsets", "payload", "blocks"), "EXTERNAL"),
    "outcome_batch": dict.fromkeys(("states", "started", "durations", "offsets", "payload", "blocks"), "EXTERNAL"),
    "block": {"data": "PLAIN"},
}

for _table, _columns in STORAGE.items():
    for _column, _kind in _columns.items():
        sa.event.listen(
            Base.metadata.tables[_table], "after_create",
            sa.DDL(f"ALTER TABLE {_table} ALTER {_column} SET STORAGE {_kind}"),  # type: ignore[no-untyped-call]
        )  # fmt: skip
