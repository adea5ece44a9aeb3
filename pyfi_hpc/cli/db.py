"""``pyfi db``: the ledger's tables."""

from __future__ import annotations

import sys
from typing import IO

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json


@click.group()
def db() -> None:
    """The ledger's tables: upgrade, dump."""


@db.command()
@reads
@pass_context
def upgrade(context: Context) -> None:
    """Bring the ledger's tables up to this version; `pyfi up` does it too. All or nothing."""
    from pyfi_hpc.ledger import embedded, schema

    settings = context.settings
    started = not settings.ledger and embedded.status(settings) is None
    if started:
        embedded.start(settings)
    try:
        version = schema.upgrade(embedded.connect_url(settings))
    finally:
        if started:
            embedded.stop(settings)
    if context.json:
        print_json({"schema": version})
    else:
        click.echo(f"the ledger has schema {version}")


@db.command()
@click.option("-o", "--output", type=click.File("w"), default="-", help="File to write; default: standard output.")
@pass_context
def dump(context: Context, output: IO[str]) -> None:
    """Print all tables as JSON: no arguments, no results, no secrets."""
    import json

    tables = context.ask("dump")
    json.dump({"version": 1, "tables": tables}, output, ensure_ascii=False)
    output.write("\n")
    if output is not sys.stdout:
        rows = sum(len(table["rows"]) for table in tables.values())
        click.echo(f"{len(tables)} tables, {rows} rows", err=True)
