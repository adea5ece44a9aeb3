"""``pyfi hold`` and ``pyfi release``: nothing of a job starts, and it may go on."""

from __future__ import annotations

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.jobs import resolve
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import UsageError


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="JOB...")
@reads
@pass_context
def hold(context: Context, ids: tuple[str, ...]) -> None:
    """Put jobs on hold: what waits of them does not start until `pyfi release`; what runs goes on.

    Tasks that are tried again wait too. It is kept in the ledger; the job's results can be waited for as ever.

    \b
      pyfi hold 17        pyfi hold 3,5-8        pyfi hold last        pyfi hold all
    """
    _change(context, ids, True)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="JOB...")
@reads
@pass_context
def release(context: Context, ids: tuple[str, ...]) -> None:
    """Let jobs go on that are on hold, by `pyfi hold` or because they were submitted with --hold.

    A node in quarantine is released by `pyfi node release NAME`.
    """
    _change(context, ids, False)


def _change(context: Context, ids: tuple[str, ...], on_hold: bool) -> None:
    found = []
    verb = "hold" if on_hold else "release"
    jobs = resolve(context, ids)
    for one in jobs:
        if one.indices is not None:
            name = f"{one.job}.{one.indices[0]}"
            raise UsageError(f"`{verb}` takes whole jobs", where=name, fix=f"write `pyfi {verb} {one.job}`")
    for one in jobs:
        found.append(context.session.set_hold(one.job, on_hold))
        if not context.json:
            click.echo(f"job {one.job}: {_words(found[-1])}")
    if context.json:
        print_json({"jobs": found})


def _words(told: dict[str, int]) -> str:
    if not told["on_hold"]:
        return "released" if told["changed"] else "it was not on hold"
    text = "on hold" if told["changed"] else "it was on hold already"
    running = told["running"]
    return f"{text}; {running} task{'s' * (running != 1)} of it still run{'s' * (running == 1)}" if running else text
