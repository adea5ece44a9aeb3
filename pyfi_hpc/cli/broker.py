"""``pyfi broker``: the broker alone, for instances whose ranks come from elsewhere."""

from __future__ import annotations

import os
import sys
import time

import click

from pyfi_hpc.cli.context import Context, pass_context, reads


@click.group()
def broker() -> None:
    """Run the broker alone; agents of allocations or other machines join it."""


@broker.command()
@click.option("--bind", metavar="ADDR", help="Address to listen on; default 127.0.0.1.")
@reads
@pass_context
def start(context: Context, bind: str | None) -> None:
    """Start the ledger and the broker as daemons; `pyfi down` stops them."""
    from pyfi_hpc.cli.up import Teller, start_server

    if bind:
        context.change(bind=bind)
    begun = time.monotonic()
    tell = Teller(context)
    tell("instance", f"{context.settings.instance}   (state {context.settings.instance_dir})")
    start_server(context, tell)
    tell.end(time.monotonic() - begun)


@broker.command()
@click.option("--bind", metavar="ADDR", help="Address to listen on; default 127.0.0.1.")
@pass_context
def run(context: Context, bind: str | None) -> None:
    """Run the broker in this process until it is told to stop, for service managers and batch jobs."""
    from pyfi_hpc.hosts import instance

    instance.start_ledger(context.settings)
    become(context, "broker", ["--bind", bind] if bind else [])


def become(context: Context, host: str, extra: list[str]) -> None:
    """Go on as that daemon: this process's id stays."""
    settings = context.settings
    if settings.ledger:  # it may hold a password: never in arguments
        os.environ["PYFI_LEDGER"] = settings.ledger
    command = [
        sys.executable,
        "-m",
        f"pyfi_hpc.hosts.{host}",
        "--instance",
        settings.instance,
        "--home",
        str(settings.home),
    ]
    os.execv(sys.executable, [*command, *extra])
