"""``pyfi why``: why a task, a job or a node does not go on, and what would make it."""

from __future__ import annotations

import re
from typing import Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.jobs import resolve
from pyfi_hpc.cli.output import bold, fancy, one_line, print_json
from pyfi_hpc.cli.parse import LAST, Ids
from pyfi_hpc.errors import BrokerUnreachable, NotFound

#: a job or one task; all else is a node or an allocation
_TASK = re.compile(r"\d+(\.\d+)?")


@click.command()
@click.argument("what", metavar="JOB|JOB.TASK|NODE|ALLOCATION")
@reads
@pass_context
def why(context: Context, what: str) -> None:
    """Tell why a task or a job waits, about when it starts, and what would start it now; or why a node is idle.

    \b
      pyfi why last        pyfi why 17        pyfi why 17.3        pyfi why node7

    For a job it is the case of its first task that waits. When it starts is estimated from the mean durations so far.
    """
    if what == LAST or _TASK.fullmatch(what):
        try:
            _of_task(context, what)
        except NotFound:
            # a number is a job, where there is one of this number, else an allocation
            if not what.isdigit() or not _of_allocation(context, what):
                raise
        return
    if not _of_allocation(context, what):
        _show_nodes(context, context.ask("why", {"node": what}))


def _of_allocation(context: Context, key: str) -> bool:
    """Tell of an allocation that was asked for; False: none of this name was."""
    from pyfi_hpc.hosts import allocation

    if key not in {note.key for note in allocation.noted(context.settings)}:
        return False
    show_allocation(context, key)
    return True


def show_allocation(context: Context, key: str) -> None:
    """Why an allocation waits, in its batch system's words; what its nodes do, once it runs.

    Raises
    ------
    NotFound
        None of this name was asked for here, and no node of it has joined.
    """
    from pyfi_hpc.hosts import allocation

    found = allocation.why(context.settings, key)
    try:
        nodes = context.ask("why", {"node": key})["nodes"]
    except (NotFound, BrokerUnreachable):
        if found is None:
            raise NotFound(
                f"there is no allocation {key!r} here", where=str(context.settings.instance_dir / "allocations"),
                fix="`pyfi info` and `pyfi alloc ls` list allocations",
            ) from None  # fmt: skip
        nodes = []
    if context.json:
        print_json({"allocation": found, "nodes": nodes})
        return
    if found is not None:
        _show(f"allocation {key}  {found['state']}", found)
    for node in nodes:
        _show(f"node {node['name']}", node)


def _show_nodes(context: Context, found: dict[str, Any]) -> None:
    if context.json:
        print_json(found)
        return
    for node in found["nodes"]:
        _show(f"node {node['name']}", node)


def _of_task(context: Context, what: str) -> None:
    (one,) = resolve(context, [what])
    index = None if one.indices is None else one.indices[0]
    body = {"job": one.job} if index is None else {"job": one.job, "index": index}
    try:
        found = context.ask("why", body)
    except NotFound:
        found = _ended(context, one, index)  # raises NotFound where it never was
    if context.json:
        print_json(found)
        return
    name = f"job {one.job}" if index is None else f"task {one.job}.{index}"
    _show(f"{name}  {found['name']}{_counts(found)}", found)


def _ended(context: Context, one: Ids, index: int | None) -> dict[str, Any]:
    """The case of what waits for nothing any more."""
    if index is None:
        rows = context.ask("jobs", {"jobs": [one.job]})["rows"]
        if not rows:
            raise NotFound(f"there is no job {one.job}", fix="`pyfi queue` lists jobs")
        states = ", ".join(f"{count} {state}" for state, count in sorted(rows[0]["states"].items()))
        because = [f"all of its tasks have ended: {states}"]
        return {"job": one.job, "name": rows[0]["name"], "reason": "None", "because": because, "would": []}
    call = context.ask("call", {"id": f"{one.job}.{index}"})
    because = [f"it has ended: {call['state']}"]
    if call["error"]:
        because.append(f"{call['error']['type']}: {call['error']['message']}")
    return {
        "job": one.job, "index": index, "name": call["socket"], "state": call["state"], "reason": "None",
        "because": because, "would": [f"`pyfi ls call --id {one.job}.{index}` shows each attempt."],
    }  # fmt: skip


def _counts(found: dict[str, Any]) -> str:
    if "counts" in found:
        words = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count)
        return f"  {words}; its task {found['job']}.{found['index']} is {_state(found)}"
    return f"  {_state(found)}" if "state" in found else ""


def _state(found: dict[str, Any]) -> str:
    return str(found["state"]) + (f" ({found['reason']})" if found["reason"] != "None" else "")


def _show(title: str, found: dict[str, Any]) -> None:
    title = one_line(title)
    click.echo(bold(title) if fancy() else title)
    for line in found["because"]:
        click.echo(f"  because {one_line(line)}")
    if found.get("start_s") is not None:
        click.echo(f"  starts in about {found['start_s']:.1f} s")
    for line in found["would"]:
        click.echo(f"  {one_line(line)}")
