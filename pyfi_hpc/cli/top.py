"""``pyfi top``: the instance live, as htop shows a machine."""

from __future__ import annotations

import click

from pyfi_hpc.cli import frame as frames
from pyfi_hpc.cli.context import Context, pass_context
from pyfi_hpc.cli.jobs import QUEUE
from pyfi_hpc.cli.output import Column, fancy, one_line, rows


@click.command()
@click.option("-d", "--delay", type=click.FloatRange(0.2, 60.0), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print one frame and end; so too where there is no terminal.")
@pass_context
def top(context: Context, delay: float, once: bool) -> None:
    """Watch ranks, jobs, nodes and logs; q ends it, the arrows choose a job, Enter tells why it waits.

    A cell for each rank: █ busy, ░ idle, x resting.
    """
    if once or not fancy():
        show(context)
        return
    from pyfi_hpc.cli.dashboard import Dashboard

    context.session.ask("info", {}, repeat=True)  # no instance: told as by any command, not on a screen of its own
    Dashboard(context, delay).run()


def show(context: Context) -> None:
    """Print one frame."""
    context.session.ask("info", {}, repeat=True)
    found = frames.look(context, None)
    click.echo(one_line(found.title()))
    columns = [Column(title, str(at)) for at, title in enumerate(frames.NODE_TITLES)]
    cells = [{str(at): cell for at, cell in enumerate(frames.node_cells(node))} for node in found.nodes]
    rows(context, "nodes", columns, cells)
    rows(context, "jobs", QUEUE, found.jobs)
