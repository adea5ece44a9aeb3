"""Alembic's entry: runs the migrations on the connection that ``schema`` hands over."""

from __future__ import annotations

import re

from alembic import context

from pyfi_hpc.ledger import models, tables  # noqa: F401  models register themselves

_PARTITION = re.compile(r"_p\d+(_|$)")


def include_name(name: str | None, kind: str, parents: object) -> bool:
    """The writer makes partitions on demand; they are not part of the schema."""
    return kind != "table" or not _PARTITION.search(name or "")


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.Base.metadata,
    include_name=include_name,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
