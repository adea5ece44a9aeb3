"""Processors by name: their code is prepared as ``pyfi deploy`` does, sockets come by ``add socket``."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.deploy import Steps
from pyfi_hpc.errors import NotFound, UsageError

#: what decides about the code itself
_CODE = frozenset({"repository", "module", "branch", "commit", "allow_dirty", "task"})


def add_processor(context: Context, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Prepare the code and register the processor, without sockets but for ``-t``.

    Raises
    ------
    UsageError
        The name is taken.
    """
    name = values["name"]
    try:
        context.ask("get", {"kind": "processor", "name": name})
    except NotFound:
        pass
    else:
        raise UsageError(
            f"there is a processor named {name!r} already",
            where="add processor",
            fix="take another name, or `pyfi update processor`",
        )
    host = values.pop("hostname", None)
    if host is not None:
        from pyfi_hpc.cli.add import node_named

        host = node_named(context, host)
    task = values.get("task")
    _deploy(context, name, values, [task] if task else [])
    _update_rest(context, name, values)
    if host is not None:
        deployment = {"name": f"{name}.{host}", "processor": name, "node": host}
        context.ask("add", {"kind": "deployment", "values": deployment}, reads=False)
    return _get(context, name)


def update_processor(context: Context, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Change fields; where they concern the code, deploy it again with the sockets that it has."""
    before = _get(context, name)
    if _CODE & values.keys():
        known = context.ask("ls", {"kind": "socket", "filters": {"processor": name}, "limit": 1000})["rows"]
        functions = [row["function"].removeprefix(f"{name}.") for row in known if row["name"] == row["function"]]
        if values.get("task"):
            functions.append(values["task"])
        code = {
            "repository": before["repository"],
            "module": before["module"],
            "branch": before["branch"] or None,
        }
        _deploy(context, name, {**code, **values}, functions)
    _update_rest(context, name, values)
    return _get(context, name)


def _get(context: Context, name: str) -> dict[str, Any]:
    found: dict[str, Any] = context.ask("get", {"kind": "processor", "name": name})
    return found


def _deploy(context: Context, name: str, values: dict[str, Any], functions: list[str]) -> None:
    import msgspec

    from pyfi_hpc.cli.node_ssh import asker
    from pyfi_hpc.client.deploy import prepare, send_to_nodes

    spec = prepare(
        context.settings, values["repository"], commit=values.get("commit") or values.get("branch"),
        module=values.get("module"), name=name, functions=functions or None,
        allow_dirty=bool(values.get("allow_dirty")), permit=context.permit, progress=Steps(quiet=context.json),
    )  # fmt: skip
    if not functions:  # the check that there are any has been made; sockets come by `add socket`
        spec = msgspec.structs.replace(spec, sockets=[])
    context.ask("deploy", msgspec.to_builtins(spec), reads=False)
    for problem in send_to_nodes(context.settings, context.ask, asker()):
        click.echo(f"warning: {problem}", err=True)


def _update_rest(context: Context, name: str, values: dict[str, Any]) -> None:
    rest = {field: value for field, value in values.items() if field not in _CODE - {"branch"} and field != "name"}
    if rest:
        context.ask("update", {"kind": "processor", "name": name, "values": rest}, reads=False)
