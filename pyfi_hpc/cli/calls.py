"""``pyfi ls calls`` and ``pyfi ls call``: tasks, one task with all its attempts, the graph around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pyfi_hpc.cli import graph as drawing
from pyfi_hpc.cli.context import Context, lists, pass_context, reads
from pyfi_hpc.cli.output import Column, bold, fancy, print_json, record, rows

_CALLS = (
    Column("ID"),
    Column("NAME", "socket", cut=True),
    Column("ST", "code"),
    Column("NODE"),
    Column("RANK", right=True),
    Column("ATTEMPT", right=True),
    Column("STARTED"),
    Column("SECONDS", lambda row: _seconds(row["duration_s"]), right=True),
    Column("REASON", lambda row: f"({row['reason']})" if row["reason"] not in ("", "None") else "", cut=True),
)
_ATTEMPTS = (
    Column("ATTEMPT", right=True),
    Column("OUTCOME"),
    Column("NODE"),
    Column("RANK", right=True),
    Column("STARTED"),
    Column("SECONDS", lambda row: _seconds(row["duration_s"]), right=True),
    Column("ERROR", lambda row: _short(row["error"]), cut=True),
)


@click.command()
@click.option("-u", "--unfinished", is_flag=True, help="Only what waits or runs.")
@click.option("-j", "--job", metavar="JOB", help="Only tasks of this job: 17 or last.")
@click.option("--state", default="", help="Only these: PENDING, RUNNING, COMPLETED, FAILED ... or PD, R, CD, F ...")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@lists
@pass_context
def calls(context: Context, /, job: str | None, **body: Any) -> None:
    """List calls (tasks), the newest first."""
    from pyfi_hpc.cli.jobs import resolve

    if job:
        body["job"] = resolve(context, [job])[0].job
    answer = context.ask("calls", body)
    rows(context, "calls", _CALLS, answer["rows"], total=answer["total"])


@click.command()
@click.argument("call_id", required=False, metavar="ID")
@click.option("--id", "named", metavar="ID", help="The same as the argument: J.i, or J for a whole job with -g.")
@click.option("-r", "--result", is_flag=True, help="Print its result alone.")
@click.option("-g", "--graph", is_flag=True, help="Draw the calls that it is linked with.")
@reads
@pass_context
def call(context: Context, call_id: str | None, named: str | None, result: bool, graph: bool) -> None:
    """Show one call: state, code, arguments, result, every attempt."""
    wanted = call_id or named
    if wanted is None:
        raise click.UsageError("which? Give the id of a call, such as 17.0")
    if wanted.startswith("last"):
        from pyfi_hpc.cli.jobs import resolve

        wanted = f"{resolve(context, ['last'])[0].job}{wanted.removeprefix('last')}"
    if graph:
        show_graph(context, wanted)
    elif result:
        show_result(context, wanted)
    else:
        show_call(context, wanted)


def show_call(context: Context, call_id: str) -> None:
    """Everything about one call."""
    answer = context.ask("call", {"id": call_id})
    answer["arguments"] = _arguments(answer["arguments"])
    answer["result"] = _value(answer["result"])
    attempts = answer.pop("attempts")
    if context.json:
        print_json({"call": {**answer, "attempts": attempts}})
        return
    answer["budgets"] = budgets(answer["budgets"], answer["retries"])
    error = answer.pop("error", None)
    record(context, "call", {key: answer[key] for key in _SHOWN if key in answer})
    if attempts:
        if fancy():
            click.echo(f"\n{bold('attempts')}")
        rows(context, "attempts", _ATTEMPTS, attempts)
    if error and error.get("traceback"):
        click.echo(f"\n{error['traceback'].rstrip()}")


def budgets(found: Sequence[Mapping[str, Any]], retries: int) -> str:
    """Causes with attempts used and the limit: ``error 2/3 (retries=2)  crash 1/3  walltime 4 (free)``.

    Causes that the user's retries pay for share one number.
    """
    user = [row for row in found if row["charged"]]
    texts = []
    if user:
        names = "+".join(row["cause"] for row in user if row["used"]) or user[0]["cause"]
        texts.append(f"{names} {user[0]['shared']}/{user[0]['limit']} (retries={retries})")
    for row in found:
        if not row["charged"]:
            texts.append(f"{row['cause']} {row['used']}" + (f"/{row['limit']}" if row["limit"] >= 0 else " (free)"))
    return "  ".join(texts)


def show_result(context: Context, call_id: str) -> None:
    """The result of a call that has completed; one that failed raises as `pyfi task run` does."""
    from pyfi_hpc.cli.task import print_value, tell_failed
    from pyfi_hpc.client.job import attach

    handle = attach(call_id if "." in call_id else f"{call_id}.0", session=context.session)
    try:
        value = handle.get()
    except Exception as error:
        if not hasattr(error, "task"):
            raise
        raise SystemExit(tell_failed(error)) from None
    print_value(value, "json" if context.json else "raw")


def show_graph(context: Context, call_id: str) -> None:
    """The graph of a call; of a whole job where no task is named."""
    tasks, edges, cut = linked(context, call_id)
    if context.json:
        print_json({"tasks": tasks, "edges": edges, "cut": cut})
        return
    click.echo(drawing.draw(tasks, edges, drawing.width_here()))
    if cut:
        click.echo(f"(only {len(tasks)} calls are shown)", err=True)


def linked(context: Context, call_id: str) -> tuple[dict[str, Any], list[list[str]], bool]:
    """Tasks and edges around a call, or of all parts of a job that hang together."""
    answer = context.ask("call", {"id": call_id, "graph": True})["graph"]
    tasks, edges, cut = dict(answer["tasks"]), list(answer["edges"]), answer["cut"]
    if "." in call_id:
        return tasks, edges, cut
    page = context.ask("calls", {"job": int(call_id), "limit": drawing.TASKS_MAX})
    for row in reversed(page["rows"]):
        if row["id"] not in tasks and len(tasks) < drawing.TASKS_MAX:
            more = context.ask("call", {"id": row["id"], "graph": True})["graph"]
            tasks.update(more["tasks"])
            edges += [edge for edge in more["edges"] if edge not in edges]
            cut = cut or more["cut"]
    return tasks, edges, cut or page["total"] > len(page["rows"])


_SHOWN = (
    "id",
    "name",
    "socket",
    "state",
    "reason",
    "owner",
    "node",
    "rank",
    "attempt",
    "submitted",
    "started",
    "ended",
    "duration_s",
    "repository",
    "commit",
    "module",
    "environment",
    "priority",
    "retries",
    "budgets",
    "time_limit_s",
    "arguments",
    "result",
    "parents",
    "children",
)


def _arguments(data: bytes | None) -> Any:
    """A call's arguments as people write them; what comes from other calls as ``<result>``."""
    if data is None:
        return "(too large to show)"
    from pyfi_hpc.runner.payload import decode_call, encode_value

    try:
        args, kwargs = decode_call(data, _Placeholders(encode_value("<result>")))
    except ValueError:
        return "(cannot be read)"
    return ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])


class _Placeholders(list[bytes]):
    """Stands for as many results as are asked for."""

    def __init__(self, one: bytes) -> None:
        super().__init__([one])

    def __len__(self) -> int:
        return 1 << 32

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(0)


def _value(data: bytes | None) -> Any:
    if data is None:
        return None
    from pyfi_hpc.runner.payload import decode_value

    try:
        return decode_value(data)
    except ValueError:
        return "(cannot be read)"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.1 else f"{value:.6f}"


def _short(error: dict[str, str] | None) -> str:
    if not error:
        return ""
    return f"{error['type']}: {error['message']}".strip(": ").split("\n")[0]
