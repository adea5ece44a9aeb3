"""``pyfi node``: add hosts over ssh, take a node out of service for a while, or put one back."""

from __future__ import annotations

import click

from pyfi_hpc.cli import node_ssh, parse
from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json, shown


@click.group()
def node() -> None:
    """Add hosts over ssh; take a node out of service, or put it back. `pyfi info` shows them."""


for _command in (node_ssh.add, node_ssh.rm, node_ssh.sync):
    node.add_command(_command)


@node.command()
@click.argument("name")
@reads
@pass_context
def release(context: Context, name: str) -> None:
    """End the quarantine of a node and of its ranks, and forget what was held against them."""
    answer = context.ask("node_release", {"name": name}, reads=False)
    if context.json:
        print_json({"node": answer})
        return
    lifted = ", ".join(answer["lifted"])
    click.echo(f"node {answer['name']}: released {lifted}" if lifted else f"node {answer['name']}: nothing rests there")


@node.command()
@click.argument("name")
@click.option("--for", "length", metavar="TIME", default="1h", show_default=True, help="Seconds, or 5m, 2h, 1:00:00.")
@click.option("--reason", default="by hand", show_default=True, help="Shown to whoever asks.")
@reads
@pass_context
def quarantine(context: Context, name: str, length: str, reason: str) -> None:
    """Give a node no tasks for a while: what runs there may end, what has not started goes elsewhere."""
    body = {"name": name, "seconds": parse.seconds(length), "reason": reason}
    answer = context.ask("node_quarantine", body, reads=False)
    if context.json:
        print_json({"node": answer})
    else:
        click.echo(f"node {answer['name']}: quarantined until {shown(answer['until'], 'at')}: {answer['reason']}")
