"""``pyfi update``: change fields of an object; ``pyfi proc`` and ``pyfi scheduler`` change one of them."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.code import update_processor
from pyfi_hpc.cli.context import Context, reads
from pyfi_hpc.cli.group import LazyGroup
from pyfi_hpc.cli.kinds import KINDS, plural
from pyfi_hpc.cli.objects import field_options, values_of
from pyfi_hpc.cli.output import print_json


def _update_command(word: str) -> click.Command | None:
    kind = next((name for name in KINDS if word in (name, plural(name))), None)
    if kind is None or KINDS[kind].listed_only:
        return None
    table = KINDS[kind]

    @click.pass_obj
    def command(
        context: Context, /, name: str | None, named: str | None, assignments: tuple[str, ...], **given: Any
    ) -> None:
        wanted = name or named
        if not wanted:
            raise click.UsageError(f"which {kind}? Give its name; `pyfi ls {plural(kind)}` lists them")
        values = values_of(given, assignments)
        if not values:
            raise click.UsageError("nothing to change: give a field, or --set FIELD=VALUE")
        if kind == "processor":
            changed = update_processor(context, wanted, values)
        else:
            changed = context.ask("update", {"kind": kind, "name": wanted, "values": values}, reads=False)
        if context.json:
            print_json({kind: changed})
        else:
            click.echo(f"updated {kind} {changed.get('name', wanted)}")

    found = click.Command(
        kind, callback=command, help=f"Change fields of a {kind}.", short_help=table.help,
        params=[
            click.Argument(["name"], required=False, metavar="NAME"),
            click.Option(["-n", "--name", "--id", "named"], help="The same as the argument."),
            *field_options(table, for_update=True),
        ],
    )  # fmt: skip
    return reads(found)


update = LazyGroup(
    "update", make=_update_command, names=[name for name in KINDS if not KINDS[name].listed_only],
    help="Change fields of an object; fields that are not given stay as they are.",
)  # fmt: skip
