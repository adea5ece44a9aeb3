"""A real Postgres for tests: one embedded server for the session, a fresh ledger for each test that asks."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from pyfi_hpc.ledger import embedded, schema
from pyfi_hpc.ledger.connection import libpq_url
from pyfi_hpc.settings import Settings

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def ledger_server() -> Iterator[embedded.EmbeddedServer]:
    """The server; its database ``template_ledger`` has the tables, ready to be copied."""
    with tempfile.TemporaryDirectory(prefix="pyfi-test-") as folder:
        # PYFI_PG_BIN runs the suite on another version of Postgres
        programs = os.environ.get("PYFI_PG_BIN", "")
        settings = Settings(instance="tests", home=Path(folder) / "home", scratch=Path(folder), pg_bin=programs)
        server = embedded.start(settings)
        try:
            administer(server.url, "CREATE DATABASE template_ledger")
            schema.upgrade(server.url.replace("/pyfi?", "/template_ledger?"))
            yield server
        finally:
            embedded.stop(settings)
            embedded.remove(settings)


@pytest.fixture
def new_ledger(ledger_server: embedded.EmbeddedServer) -> Iterator[Callable[[], str]]:
    """Makes ledgers: each call copies the template in about 50 ms and returns the URL."""
    made: list[str] = []

    def make() -> str:
        made.append(f"ledger_{next(_numbers)}")
        administer(ledger_server.url, f"CREATE DATABASE {made[-1]} TEMPLATE template_ledger")
        return ledger_server.url.replace("/pyfi?", f"/{made[-1]}?")

    yield make
    for name in made:
        administer(ledger_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def ledger_url(new_ledger: Callable[[], str]) -> str:
    """An empty ledger with all tables."""
    return new_ledger()


def administer(url: str, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Run one statement on a connection of its own."""
    connection = psycopg2.connect(libpq_url(url))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
