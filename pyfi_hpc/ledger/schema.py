"""The ledger's tables, made and kept up to date."""

from __future__ import annotations

import sqlalchemy as sa

from pyfi_hpc.ledger import tables
from pyfi_hpc.ledger.connection import make_engine
from pyfi_hpc.ledger.queries import text_of


def upgrade(target: str | sa.Engine) -> None:
    """Bring the tables, functions and views of a ledger up to this version; does nothing if they are."""
    engine = make_engine(target) if isinstance(target, str) else target
    with engine.begin() as connection:
        tables.Base.metadata.create_all(connection)
        # past SQLAlchemy's own reading of colons and percent signs
        connection.connection.cursor().execute(text_of("functions.sql"))
    if isinstance(target, str):
        engine.dispose()
