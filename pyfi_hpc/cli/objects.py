"""``ls`` and ``delete`` for every kind of object, and what ``add`` and ``update`` share with them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import click

from pyfi_hpc.cli.context import Context, lists, reads
from pyfi_hpc.cli.group import LazyGroup
from pyfi_hpc.cli.info import troubles
from pyfi_hpc.cli.kinds import KINDS, SAME, Flag, Kind, plural
from pyfi_hpc.cli.output import Column, print_json, record, rows

#: rows that one question brings
_PAGE = 1000


def field_options(kind: Kind, *, for_update: bool) -> list[click.Option]:
    """Options of a kind; nothing is required where only some fields change."""
    found = [_option(flag, for_update) for flag in kind.flags]
    found.append(click.Option(
        ["--set", "assignments"], multiple=True, metavar="FIELD=VALUE", help="Any other field of the object.",
    ))  # fmt: skip
    return found


def _option(flag: Flag, for_update: bool) -> click.Option:
    what = {"is_flag": True, "default": None} if flag.kind is bool else {"type": flag.kind}
    required = flag.required and not for_update
    return click.Option([*flag.names, f"field_{flag.field}"], required=required, help=flag.help, **what)


def values_of(given: Mapping[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Fields that were given, by name."""
    found = {name.removeprefix("field_"): value for name, value in given.items() if value is not None}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--set {text!r} is not FIELD=VALUE")
        found[name.strip()] = value
    return found


def name_option(required: bool) -> click.Option:
    return click.Option(["-n", "--name", "name"], required=required, help="Its name.")


# --- ls -----------------------------------------------------------------------------------------------


def _list_command(word: str) -> click.Command | None:
    """``ls queues`` lists, ``ls queue -n NAME`` shows one."""
    for name, kind in KINDS.items():
        if word == plural(name):
            return _lists(name, kind)
        if word == name:
            return _shows(name, kind)
    one = SAME.get(word.removesuffix("s"))
    return _list_command(plural(one) if word.endswith("s") else one) if one else None


def _lists(name: str, kind: Kind) -> click.Command:
    @click.pass_obj
    def command(context: Context, pattern: str | None, limit: int, offset: int, filters: tuple[str, ...]) -> None:
        wanted = values_of({}, filters)
        answer = _matching(context, name, pattern, wanted, limit, offset)
        shown_kind = KINDS["socket"] if name == "outlet" else kind
        if name == "processor":
            _add_commits(context, answer["rows"])
        columns = [_column(field) for field in shown_kind.columns]
        rows(context, plural(name), columns, answer["rows"], total=answer["total"])

    found = click.Command(
        plural(name),
        callback=command,
        help=f"List {plural(name)}: {kind.help}.",
        short_help=f"{kind.help}",
        params=[
            click.Argument(["pattern"], required=False, metavar="[NAME*]"),
            click.Option(["--limit"], type=click.IntRange(1, _PAGE), default=100, show_default=True),
            click.Option(["--offset"], type=click.IntRange(0), default=0),
            click.Option(
                ["--filter", "filters"],
                multiple=True,
                metavar="FIELD=VALUE",
                help="Only those with this value.",
            ),
        ],
    )
    return lists(found)


def _add_commits(context: Context, processors: list[dict[str, Any]]) -> None:
    """A processor names the version of its code; people know versions by their commits."""
    versions = {row["code"] for row in processors} - {""}
    for row in processors:
        row["commit"] = ""
    for number in versions:
        commit = context.ask("get", {"kind": "code", "name": number})["commit"]
        for row in processors:
            if row["code"] == number:
                row["commit"] = commit


def _column(field: str) -> Column:
    """A field as a column: names of the objects themselves and numbers are never cut."""
    title = _TITLES.get(field, field.upper())
    if field == "commit":
        return Column(title, lambda row: row["commit"][:12])
    if field == "function":
        return Column(title, _bare_function, cut=True)
    return Column(title, field, right=field in _NUMBERS, cut=field not in _NUMBERS | {"name"})


def _bare_function(row: Mapping[str, Any]) -> str:
    """Without the processor's name, which has a column of its own."""
    return str(row["function"]).removeprefix(f"{row.get('processor', '')}.")


_TITLES = {
    "requested_status": "REQUESTED",
    "concurrency": "CONC",
    "priority": "PRIO",
    "rank_count": "RANKS",
    "node_count": "NODES",
    "length_max": "LENGTH",
    "expires_s": "EXPIRES",
}
_NUMBERS = frozenset(
    {"id", "concurrency", "priority", "cores", "gpus", "position", "rank_count", "node_count", "length_max"}
    | {"expires_s", "interval_s", "number", "core", "pid", "uid"}
)


def _matching(
    context: Context, kind: str, pattern: str | None, filters: dict[str, Any], limit: int, offset: int
) -> dict[str, Any]:
    """One page; the ledger does not know patterns, so with one all names are looked at here."""
    body = {"kind": kind, "filters": filters}
    if not pattern:
        page: dict[str, Any] = context.ask("ls", {**body, "limit": limit, "offset": offset})
        return page
    found: list[dict[str, Any]] = []
    at, total = 0, 1
    while at < total:
        page = context.ask("ls", {**body, "limit": _PAGE, "offset": at})
        found += [row for row in page["rows"] if fnmatch.fnmatchcase(str(row.get("name", row["id"])), pattern)]
        at, total = at + _PAGE, page["total"]
    return {"rows": found[offset : offset + limit], "total": len(found)}


def _shows(name: str, kind: Kind) -> click.Command:
    @click.pass_obj
    def command(context: Context, name_given: str | None, named: str | None) -> None:
        wanted = name_given or named
        if not wanted:
            raise click.UsageError(f"which {name}? Give its name; `pyfi ls {plural(name)}` lists them")
        show_object(context, name, wanted)

    found = click.Command(
        name, callback=command, help=f"Show one {name}: {kind.help}.", hidden=True,
        params=[
            click.Argument(["name_given"], required=False, metavar="NAME"),
            click.Option(["-n", "--name", "--id", "named"], help="The same as the argument."),
        ],
    )  # fmt: skip
    return reads(found)


def show_object(context: Context, kind: str, name: str) -> None:
    """One object with what belongs to it, and its latest events."""
    found = context.ask("get", {"kind": kind, "name": name})
    if context.json:
        print_json({kind: found})
        return
    events = found.pop("events", [])
    live = found.pop("live", [])
    if found["kind"] == kind:  # of queues and plugs it is a field of their own
        del found["kind"]
    record(context, kind, found)
    for node in live:
        record(
            context,
            "live",
            {"live": f"{node['ranks']} ranks, {node['running']} running, load {node['load']:.2f}"},
        )
        for trouble in troubles(node):
            record(context, "trouble", {"trouble": trouble})
    for event in events[:5]:
        record(context, "event", {"event": f"{event['name']} by {event['owner']} {event['note']}".strip()})


ls = LazyGroup(
    "ls", make=_list_command, names=[plural(name) for name in KINDS],
    help="List objects: `pyfi ls sockets`; show one: `pyfi ls socket NAME`. Jobs: `pyfi queue`.",
)  # fmt: skip


# --- delete -------------------------------------------------------------------------------------------


def _delete_command(word: str) -> click.Command | None:
    kind = next((name for name in KINDS if word in (name, plural(name))), None)
    if kind is None or KINDS[kind].listed_only:
        return None

    @click.pass_obj
    def command(context: Context, names: tuple[str, ...], named: tuple[str, ...]) -> None:
        wanted = (*names, *named)
        if not wanted:
            raise click.UsageError(f"which {kind}? Give its name; `pyfi ls {plural(kind)}` lists them")
        deleted = [context.ask("delete", {"kind": kind, "name": name}, reads=False) for name in wanted]
        if context.json:
            print_json({"deleted": deleted})
        else:
            for one in deleted:
                click.echo(f"deleted {kind} {one.get('name', one['id'])}")

    found = click.Command(
        kind,
        callback=command,
        help=f"Delete {plural(kind)} and what belongs to them.",
        short_help=KINDS[kind].help,
        params=[
            click.Argument(["names"], nargs=-1, metavar="[NAME]..."),
            click.Option(["-n", "--name", "--id", "named"], multiple=True, help="The same as the argument."),
        ],
    )
    return reads(found)


delete = LazyGroup(
    "delete", make=_delete_command, names=[name for name in KINDS if not KINDS[name].listed_only],
    help="Delete objects by name; what happened stays in the ledger.",
)  # fmt: skip
