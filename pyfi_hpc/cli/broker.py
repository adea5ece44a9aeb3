"""``pyfi broker``: the broker alone, for instances whose ranks come from elsewhere; a standby for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pyfi_hpc.cli.context import Context, pass_context, reads

F = TypeVar("F", bound=Callable[..., Any])


def _standby(text: str) -> Callable[[F], F]:
    """``--standby`` may stand before the verb or after it."""
    return click.option("--standby", is_flag=True, help=text)


def _bind(command: F) -> F:
    return click.option(
        "--bind", metavar="ADDR", help="Address to listen on; default 127.0.0.1, for a standby the broker's."
    )(command)


@click.group(invoke_without_command=True)
@_standby("The broker that waits until the one that serves has gone; alone: start one.")
@_bind
@reads
@click.pass_context
def broker(ctx: click.Context, standby: bool, bind: str | None) -> None:
    """Run the broker alone; agents of allocations or other machines join it.

    \b
      pyfi broker start        the ledger and the broker
      pyfi broker --standby    one more, which takes over when the first is gone
      pyfi broker restart      a new one in its place; what runs is not disturbed
    """
    context = ctx.ensure_object(Context)
    if bind:
        context.change(bind=bind)
    ctx.meta["standby"] = standby
    if ctx.invoked_subcommand is None:
        if not standby:
            raise click.UsageError("Missing command.", ctx)
        ctx.invoke(start)


@broker.command()
@_standby("Start one that waits until the broker has gone.")
@_bind
@reads
@pass_context
def start(context: Context, standby: bool = False, bind: str | None = None) -> None:
    """Start the ledger and the broker as daemons; `pyfi down` stops them."""
    from pyfi_hpc.cli.up import Teller
    from pyfi_hpc.hosts import brokers, instance

    if bind:
        context.change(bind=bind)
    begun = time.monotonic()
    tell = Teller(context)
    tell("instance", f"{context.settings.instance}   (state {context.settings.instance_dir})")
    if _wants_standby(standby):
        _start_ledger(context)
        part = brokers.start_standby(context.settings)
        tell(part.name, part.text, part.seconds)
    else:
        instance.start(context.settings, 0, tell.part)
    tell.end(time.monotonic() - begun)


@broker.command()
@_standby("Wait until the broker has gone, then be the broker.")
@_bind
@pass_context
def run(context: Context, standby: bool, bind: str | None) -> None:
    """Run the broker in this process until it is told to stop, for service managers and batch jobs."""
    if bind:
        context.change(bind=bind)
    _start_ledger(context)
    become(context, "broker", ["--standby"] if _wants_standby(standby) else [])


@broker.command()
@reads
@pass_context
def restart(context: Context) -> None:
    """Put a new broker in the place of this host's: tasks run on, clients and agents find it by themselves."""
    from pyfi_hpc.cli.output import print_json
    from pyfi_hpc.hosts import brokers

    part = brokers.restart_broker(context.settings)
    if context.json:
        print_json({"instance": context.settings.instance, "broker": part.text, "away_s": round(part.seconds, 3)})
    else:
        click.echo(f"broker    {part.text}   away for {part.seconds:.1f} s")
        for one in brokers.standbys(context.settings):
            click.echo(f"standby   pid {one.pid} on {one.host} still runs the code that it was started with")


@broker.command()
@_standby("End the brokers of this host that wait; the one that serves stays.")
@reads
@pass_context
def stop(context: Context, standby: bool) -> None:
    """End the broker of this host; a standby takes over, or `pyfi broker start` brings it back.

    Agents end what runs after 4 s without a broker; it runs again later.
    """
    from pyfi_hpc.cli.output import print_json
    from pyfi_hpc.hosts import brokers

    settings = context.settings
    if _wants_standby(standby):
        ended, left = brokers.stop_standbys(settings), []
    else:
        left = brokers.standbys(settings)  # before: the first of them may serve as soon as the broker has gone
        ended = [brokers.stop_broker(settings)]
    if context.json:
        stopped = [{"name": one.name, "pid": one.pid} for one in ended]
        print_json({"instance": settings.instance, "stopped": stopped, "standbys": len(left)})
        return
    for one in ended:
        click.echo(f"stopped   {one.name.partition('-')[0]} pid {one.pid}")
    if not ended:
        click.echo(f"no standby of instance {settings.instance!r} was running here")
    elif not _wants_standby(standby):
        heirs = ", ".join(f"pid {one.pid} on {one.host}" for one in left)
        click.echo(f"standby   {heirs} takes over" if heirs else "no standby: `pyfi broker start` brings it back")


def _wants_standby(given: bool) -> bool:
    return given or bool(click.get_current_context().meta.get("standby"))


def _start_ledger(context: Context) -> None:
    """The embedded one; brokers of other hosts cannot reach it."""
    from pyfi_hpc.errors import BrokerHeld
    from pyfi_hpc.hosts import instance

    try:
        instance.start_ledger(context.settings)
    except BrokerHeld as error:
        fix = f"{error.fix}; brokers on several hosts need a ledger by URL: PYFI_LEDGER"
        raise BrokerHeld(error.what, where=error.where, fix=fix) from None


def become(context: Context, host: str, extra: list[str]) -> None:
    """Go on as that daemon: this process's id stays."""
    settings = context.settings
    for name in ("ledger", "bind"):  # the ledger's URL may hold a password: never in arguments
        if value := getattr(settings, name):
            os.environ[f"PYFI_{name.upper()}"] = value
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
