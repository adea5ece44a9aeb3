"""``pyfi scheduler -n NAME add --node NODE``: which nodes a scheduler fills."""

from __future__ import annotations

import click

from pyfi_hpc.cli.context import Context, pass_context
from pyfi_hpc.errors import UsageError


@click.group()
@click.option("-n", "--name", "--id", "name", required=True, help="Name or id of the scheduler.")
@click.pass_context
def scheduler(ctx: click.Context, name: str) -> None:
    """Say which nodes a scheduler fills."""
    ctx.meta["pyfi.scheduler"] = name


@scheduler.command()
@click.option("--node", "-nd", "node", required=True, help="Name of the node.")
@pass_context
def add(context: Context, node: str) -> None:
    """Let the scheduler fill a node."""
    name = _name(context)
    _set(context, node, name)
    click.echo(f"node {node}: scheduler {name}")


@scheduler.command()
@click.option("--node", "-nd", "node", required=True, help="Name of the node.")
@pass_context
def remove(context: Context, node: str) -> None:
    """Take a node from the scheduler."""
    name = _name(context)
    has = context.ask("get", {"kind": "node", "name": node})["scheduler"]
    if has != name:
        raise UsageError(f"the node {node!r} is not with the scheduler {name!r}", where=f"it is with {has or 'none'}")
    _set(context, node, "")
    click.echo(f"node {node}: no scheduler")


def _name(context: Context) -> str:
    wanted = click.get_current_context().meta["pyfi.scheduler"]
    return str(context.ask("get", {"kind": "scheduler", "name": wanted})["name"])


def _set(context: Context, node: str, scheduler_name: str) -> None:
    context.ask("update", {"kind": "node", "name": node, "values": {"scheduler": scheduler_name}}, reads=False)
