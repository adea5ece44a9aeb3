"""``pyfi proc``: what somebody wants a processor to do; whoever is in charge of it acts."""

from __future__ import annotations

import click

from pyfi_hpc.cli.context import Context, reads

_VERBS = {
    "start": ("started", "Start processors."),
    "stop": ("stopped", "Stop processors: queued tasks wait."),
    "pause": ("paused", "Pause processors: running calls end, no more start."),
    "resume": ("started", "Let paused processors go on."),
    "restart": ("restarted", "Start new runners for processors."),
    "remove": ("removed", "Take processors off the ranks."),
}


@click.group()
@click.option("-n", "--name", "--id", "name", help="Name or id of the processor; may also stand behind the verb.")
@click.pass_context
def proc(ctx: click.Context, name: str | None) -> None:
    """Start, stop, pause or resume processors: writes the requested status, which the instance follows."""
    ctx.meta["pyfi.processor"] = name


def _make(verb: str, status: str, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @click.option("-n", "--name", "--id", "named", multiple=True, help="The same as the argument.")
    @reads
    @click.pass_context
    def command(ctx: click.Context, names: tuple[str, ...], named: tuple[str, ...]) -> None:
        context = ctx.ensure_object(Context)
        above = ctx.meta.get("pyfi.processor")
        wanted = [*names, *named, *([above] if above else [])]
        if not wanted:
            raise click.UsageError("which processor? Give its name; `pyfi ls processors` lists them")
        for name in wanted:
            body = {"kind": "processor", "name": name, "values": {"requested_status": status}}
            context.ask("update", body, reads=False)
            click.echo(f"processor {name}: {status} requested")

    return command


for _verb, (_status, _text) in _VERBS.items():
    proc.add_command(_make(_verb, _status, _text))
