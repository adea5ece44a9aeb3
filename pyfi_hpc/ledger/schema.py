"""The ledger's tables, made and kept up to date: migrations for tables, one file for functions and views.

Alembic and SQLAlchemy take a second to import, and most starts do without: an empty ledger is made of the migrations'
own SQL, and what was done is written on the ledger, as a comment on Alembic's table. A start that finds it done takes
no lock on anything that a reader may hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from pyfi_hpc.errors import SettingsError
from pyfi_hpc.ledger.connection import connect, make_engine, one, shown, unavailable
from pyfi_hpc.ledger.queries import text_of

if TYPE_CHECKING:
    import sqlalchemy as sa
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
#: "pyfi" and a number: only one upgrade at a time
_LOCK = 0x70796669_0000_0001
#: for a connection, seconds
_MAKE_S = 5.0
#: the table by which Alembic knows what was done, as it makes it itself
_ALEMBICS = """
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
INSERT INTO alembic_version VALUES (%(head)s)
"""


def ensure(url: str) -> None:
    """As ``upgrade``, if that has not been done. Cost when it has: a connection and a row, 5 ms.

    Raises
    ------
    LedgerUnavailable
    SettingsError
        As ``upgrade``.
    """
    if not _is_done(url):
        upgrade(url)


def upgrade(url: str) -> str:
    """Bring the tables, functions and views of a ledger up to this version; returns that version.

    All of it happens in one transaction. Cost: 0.1 s for an empty ledger, 30 ms if nothing is to do.

    Raises
    ------
    LedgerUnavailable
    SettingsError
        The ledger was made by a newer version of this package.
    """
    return head() if _make(url) else migrate(url)


def migrate(url: str) -> str:
    """As ``upgrade``, by Alembic whatever is there."""
    import sqlalchemy as sa

    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            return _upgrade(connection)
    except (sa.exc.OperationalError, psycopg2.OperationalError) as error:
        cause = error.orig if isinstance(error, sa.exc.OperationalError) else error
        assert isinstance(cause, psycopg2.Error)
        raise unavailable(cause, engine.url.render_as_string(hide_password=True)) from error
    finally:
        engine.dispose()


def head() -> str:
    """The schema's version that this package needs: the last of the migrations, which are numbered."""
    return max(_known())


def _known() -> set[str]:
    return {file.partition("_")[0] for file in _files()}


def _files() -> list[str]:
    return [file.name for file in (_MIGRATIONS / "versions").glob("[0-9]*.py")]


@cache
def _mark() -> str:
    """What is written on a ledger on which all of this was done: it changes with each of these files."""
    texts = text_of("functions.sql") + text_of("views.sql")
    return f"pyfi {head()} {hashlib.sha256(texts.encode()).hexdigest()[:16]}"


def _is_done(url: str) -> bool:
    with closing(connect(url, name="pyfi schema")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version")
        except psycopg2.errors.UndefinedTable:
            return False
        return cursor.fetchall() == [(head(), _mark())]


def _make(url: str) -> bool:
    """Make the tables of an empty ledger; False: it is not empty, or a migration is more than SQL."""
    migrations = [_MIGRATIONS / "versions" / file for file in sorted(_files())]
    texts = [file.with_suffix(".sql") for file in migrations]
    if not all(text.exists() for text in texts):
        return False
    with closing(connect(url, _MAKE_S, "pyfi schema")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})")
            cursor.execute("SELECT to_regclass('alembic_version') IS NULL")
            if not one(cursor)[0]:
                return False  # the transaction ends with the connection
            for text in texts:
                cursor.execute(text.read_text())
            cursor.execute(_ALEMBICS, {"head": head()})
            _finish(cursor.execute)
            cursor.execute("COMMIT")
        except psycopg2.OperationalError as error:
            raise unavailable(error, url) from error
    return True


def _finish(run: Callable[[str], object]) -> None:
    """What holds no data is replaced, and that it was done is written down."""
    run(text_of("functions.sql"))
    run(text_of("views.sql"))
    run(f"COMMENT ON TABLE alembic_version IS '{_mark()}'")


def current(connection: sa.Connection) -> str:
    """The schema's version of a ledger, empty if it has no tables."""
    import sqlalchemy as sa

    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""


def configuration(connection: sa.Connection) -> Config:
    """Alembic's configuration without a file."""
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    found.attributes["connection"] = connection
    return found


def _upgrade(connection: sa.Connection) -> str:
    has, needed = current(connection), head()
    if has and has not in _known():
        raise SettingsError(
            f"the ledger was made by a newer version of pyfi_hpc (schema {has})",
            where=shown(connection.engine.url.render_as_string()), fix="upgrade this pyfi_hpc",
        )  # fmt: skip
    run = connection.connection.cursor().execute
    if has != needed:
        from alembic import command

        run(text_of("drop_views.sql"))
        command.upgrade(configuration(connection), "head")
    # through the driver: SQLAlchemy would read colons and percent signs in it
    _finish(run)
    return needed
