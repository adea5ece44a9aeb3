"""``pyfi agent``: the agent of this node, and its ranks."""

from __future__ import annotations

import os
import signal
import time

import click

from pyfi_hpc.cli.context import Context, pass_context
from pyfi_hpc.errors import NotFound, Refused

#: seconds for an agent to end its tasks and ranks
_END_S = 15.0


@click.group()
def agent() -> None:
    """Run the agent of this node alone: its ranks join the broker that the access file names."""


@agent.command()
@click.option("-n", "--ranks", type=click.IntRange(1, 4096), help="Ranks; default: one per usable core.")
@pass_context
def start(context: Context, ranks: int | None) -> None:
    """Start the agent of this node as a daemon and wait for its ranks."""
    from pyfi_hpc.adapters import node
    from pyfi_hpc.cli.up import JOIN_S, live_nodes
    from pyfi_hpc.hosts import instance

    running = instance.find(context.settings, "agent")
    if running is not None:
        raise Refused(f"the agent of this node runs already (pid {running.pid})", fix="`pyfi agent stop` ends it")
    wanted = ranks or len(node.usable_cores())
    begun = time.monotonic()
    context.ask("info")
    instance.start_agent(context.settings, wanted)
    mine = node.name()

    def nodes() -> list[dict[str, object]]:
        return [one for one in live_nodes(context) if one["name"].split("/")[0] == mine]

    joined = instance.wait_for_ranks(context.settings, nodes, wanted, JOIN_S)
    click.echo(f"{'ranks':9} {joined} of {wanted} joined   {time.monotonic() - begun:.1f} s")


@agent.command()
@click.option("-n", "--ranks", type=click.IntRange(1, 4096), help="Ranks; default: one per usable core.")
@pass_context
def run(context: Context, ranks: int | None) -> None:
    """Run the agent in this process until it is told to stop, for service managers."""
    from pyfi_hpc.cli.broker import become

    become(context, "agent", ["--ranks", str(ranks)] if ranks else [])


@agent.command()
@pass_context
def stop(context: Context) -> None:
    """End the agent of this node and its ranks; their tasks go elsewhere."""
    from pyfi_hpc.hosts import instance

    running = instance.find(context.settings, "agent")
    if running is None:
        raise NotFound(
            "no agent runs on this node",
            where=str(context.settings.instance_dir / "pids"),
            fix="`pyfi info` shows where agents are",
        )
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_S
    while running.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    if running.alive:
        raise Refused(
            f"the agent has not ended within {_END_S:.0f} s",
            where=f"pid {running.pid}",
            fix="`pyfi down` ends everything",
        )
    click.echo(f"agent (pid {running.pid}) has ended")
