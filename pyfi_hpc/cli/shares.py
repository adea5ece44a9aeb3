"""``pyfi shares``: who shares the ranks, by what weights, and what each has used."""

from __future__ import annotations

import click

from pyfi_hpc.cli.context import Context, lists, pass_context, reads
from pyfi_hpc.cli.output import Column, print_json, rows

_COLUMNS = [
    Column("PROJECT"),
    Column("WEIGHT", "project_weight", right=True),
    Column("USER"),
    Column("WEIGHT", "user_weight", right=True),
    Column("USED", lambda row: f"{row['used_s']:.1f} s", right=True),
    Column("WANTED", lambda row: f"{100 * row['wanted']:.1f}%", right=True),
    Column("GOT", lambda row: f"{100 * row['got']:.1f}%", right=True),
    Column("RUNNING", right=True),
    Column("WAITS"),
]


@click.group(invoke_without_command=True)
@lists
@click.pass_context
def shares(ctx: click.Context) -> None:
    """Show who shares the ranks: rank-seconds used, of which half is forgotten each hour, and the share wanted and got.

    A call says with project= to whose share it counts; PYFI_PROJECT says it for all that do not.
    """
    if ctx.invoked_subcommand is None:
        context = ctx.ensure_object(Context)
        found = context.ask("shares")
        rows(context, "shares", _COLUMNS, found["shares"], half_life_s=found["half_life_s"])


@shares.command("set")
@click.argument("name")
@click.argument("weight", type=float)
@click.option("--user", is_flag=True, help="NAME is somebody who submits, not a project.")
@reads
@pass_context
def set_(context: Context, name: str, weight: float, user: bool) -> None:
    """Give a project, or with --user a submitter within each project, a weight: 1 is usual, 2 gets twice as much.

    "" is the project of all who name none. What was used before stays as it was counted.
    """
    body = {"kind": "user" if user else "project", "name": name, "weight": weight}
    answer = context.ask("share", body, reads=False)
    if context.json:
        print_json({"share": answer})
    else:
        click.echo(f"{answer['kind']} {answer['name'] or '(none)'}: weight {answer['weight']:g}")
