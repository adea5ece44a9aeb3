"""``pyfi add``: a new object. Most kinds are a row of the ledger; some need more, told in ``_HOOKS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pyfi_hpc.cli.code import add_processor
from pyfi_hpc.cli.context import Context, reads
from pyfi_hpc.cli.group import LazyGroup
from pyfi_hpc.cli.kinds import KINDS, plural
from pyfi_hpc.cli.objects import field_options, name_option, values_of
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import NotFound, UsageError


def _add_command(word: str) -> click.Command | None:
    kind = next((name for name in KINDS if word in (name, plural(name))), None)
    if kind is None or KINDS[kind].listed_only:
        return None
    table = KINDS[kind]

    @click.pass_obj
    def command(context: Context, /, assignments: tuple[str, ...], name: str | None = None, **given: Any) -> None:
        values = values_of(given, assignments)
        if name is not None:
            values["name"] = name
        made = _HOOKS.get(kind, add_row)(context, kind, values)
        if context.json:
            print_json({kind: made})
        else:
            click.echo(made["id"])

    own_name = any(flag.field == "name" for flag in table.flags)
    params: list[click.Parameter] = [name_option(required=True)] if table.named and not own_name else []
    found = click.Command(
        kind, callback=command, help=f"Add a {kind}: {table.help}. Prints its id.", short_help=table.help,
        params=[*params, *field_options(table, for_update=False)],
    )  # fmt: skip
    return reads(found)


def add_row(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """An object that is no more than its row."""
    made: dict[str, Any] = context.ask("add", {"kind": kind, "values": values}, reads=False)
    return made


def _add_socket(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    interval = values.pop("interval", None)
    made = add_row(context, "socket", values)
    if interval is not None:
        add_row(context, "schedule", {"name": values["name"], "socket": values["name"], "interval_s": interval})
    return made


def _add_outlet(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The older word for a socket; its function is the processor's only one unless it is named."""
    if "function" not in values:
        functions = context.ask("ls", {"kind": "function", "filters": {"processor": values["processor"]}})["rows"]
        if len(functions) != 1:
            names = ", ".join(row["function"] for row in functions) or "none"
            raise UsageError(
                f"the processor {values['processor']!r} has not one function but: {names}",
                where="add outlet",
                fix="name it with -t FUNCTION",
            )
        values["function"] = functions[0]["function"]
    return add_row(context, "socket", values)


def _add_plug(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """A plug between two sockets; with -pn and -q from the processor's function to the queue's reader."""
    processor = values.pop("processor", None)
    if processor and "source" not in values:
        values["source"] = _only(context, {"processor": processor}, f"the processor {processor!r}", "-s SOURCE")
    if "target" not in values and "queue" in values:
        values["target"] = _only(context, {"queue": values["queue"]}, f"the queue {values['queue']!r}", "-t TARGET")
    return add_row(context, "plug", values)


def _only(context: Context, filters: dict[str, Any], where: str, flag: str) -> str:
    """The one socket; several of one function are as good as one."""
    sockets = context.ask("ls", {"kind": "socket", "filters": filters})["rows"]
    if not sockets:
        raise NotFound(
            f"{where} has no socket yet",
            where="add plug",
            fix=f"`pyfi add socket` first, or name one with {flag}",
        )
    if len({row["function"] for row in sockets}) > 1:
        raise UsageError(f"{where} has sockets of several functions", where="add plug", fix=f"name one with {flag}")
    return str(sockets[0]["name"])


def _add_argument(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """A parameter of a function, which may be known already; with -p the plug is aimed at it."""
    plug = values.pop("plug", None)
    full = f"{values['function']}.{values['name']}"
    try:
        made: dict[str, Any] = context.ask("get", {"kind": "argument", "name": full})
    except NotFound:
        made = add_row(context, kind, values)
    if plug:
        context.ask("update", {"kind": "plug", "name": plug, "values": {"argument": made["name"]}}, reads=False)
    return made


def _add_task(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    processor = context.ask("get", {"kind": "processor", "name": values["processor"]})
    values.setdefault("module", processor["module"])
    values.setdefault("function", values["name"].rpartition(".")[2])
    return add_row(context, "function", values)


def _add_node(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    values.setdefault("hostname", values["name"])
    return add_row(context, kind, values)


def _add_deployment(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    if "node" in values:
        values["node"] = node_named(context, values["node"])
    return add_row(context, kind, values)


def node_named(context: Context, host: str) -> str:
    """The node of this name or host name.

    Raises
    ------
    NotFound
    """
    for field in ("name", "hostname"):
        found = context.ask("ls", {"kind": "node", "filters": {field: host}, "limit": 1})["rows"]
        if found:
            return str(found[0]["name"])
    raise NotFound(
        f"there is no node {host!r}",
        where="nodes by name and host name",
        fix=f"`pyfi add node -n {host} -h {host}`",
    )


def _add_privilege(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The name of a privilege is the right itself, as in `--user darren --name DELETE`."""
    right = str(values["name"]).upper()
    if right not in rights():
        raise UsageError(
            f"there is no right {values['name']!r}",
            where="add privilege",
            fix="rights are: " + ", ".join(rights()),
        )
    whom = values.get("user") or values.get("role")
    if not whom:
        raise UsageError("whose right?", where="add privilege", fix="say --user NAME or --role NAME")
    return add_row(context, kind, {**values, "name": f"{whom}.{right}", "verb": right})


def rights() -> list[str]:
    """Names of rights: general ones, those over processors, and verb by kind."""
    kinds = (
        "PROCESSOR",
        "AGENT",
        "NODE",
        "PLUG",
        "PRIVILEGE",
        "QUEUE",
        "ROLE",
        "SCHEDULER",
        "SOCKET",
        "USER",
    )
    special = ("START", "STOP", "PAUSE", "RESUME", "LOCK", "UNLOCK", "VIEW")
    return [
        "ALL",
        "CREATE",
        "READ",
        "UPDATE",
        "DELETE",
        "DB_DROP",
        "DB_INIT",
        "START_AGENT",
        "RUN_TASK",
        "CANCEL_TASK",
        *(f"{verb}_PROCESSOR" for verb in special),
        "VIEW_PROCESSOR_CONFIG",
        "VIEW_PROCESSOR_CODE",
        "EDIT_PROCESSOR_CONFIG",
        "EDIT_PROCESSOR_CODE",
        *(f"LS_{kind}S" for kind in kinds),
        "LS_USER",
        "LS_WORKERS",
        *(f"{verb}_{kind}" for verb in ("ADD", "UPDATE", "DELETE", "READ") for kind in kinds),
    ]


_HOOKS: dict[str, Callable[[Context, str, dict[str, Any]], dict[str, Any]]] = {
    "processor": add_processor,
    "socket": _add_socket,
    "outlet": _add_outlet,
    "plug": _add_plug,
    "argument": _add_argument,
    "task": _add_task,
    "node": _add_node,
    "deployment": _add_deployment,
    "privilege": _add_privilege,
}

add = LazyGroup(
    "add", make=_add_command, names=[name for name in KINDS if not KINDS[name].listed_only],
    help="Add an object to the ledger; prints its id.",
)  # fmt: skip
