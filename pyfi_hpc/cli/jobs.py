"""Jobs: ``queue``, ``wait``, ``cancel``, ``logs``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import FileIO
from typing import Any

import click

from pyfi_hpc.cli import parse
from pyfi_hpc.cli.context import Context, lists, pass_context, reads
from pyfi_hpc.cli.failure import TOO_LATE
from pyfi_hpc.cli.follow import Follower, Tally
from pyfi_hpc.cli.output import Column, duration, print_json, rows
from pyfi_hpc.cli.parse import Ids
from pyfi_hpc.cli.progress import Progress, progress_option
from pyfi_hpc.cli.results import ResultLines, check_output, opened, output_options
from pyfi_hpc.errors import NotFound, UsageError

#: how bad an end is: the first that occurs is the state of the whole job
_WORST_FIRST = ("FAILED", "TIMEOUT", "CANCELLED", "SKIPPED")
_CODES = {"FAILED": "F", "TIMEOUT": "TO", "CANCELLED": "CA", "SKIPPED": "SK"}
#: jobs asked for at once
_PAGE = 1000


@click.command()
@click.option("-u", "--unfinished", is_flag=True, help="Only jobs that have not ended.")
@click.option("-j", "--jobs", "ids", metavar="IDS", help="Only these: 17, last, 1-10, 1,3,5-8.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@lists
@pass_context
def queue(context: Context, unfinished: bool, ids: str | None, limit: int, offset: int) -> None:
    """Show jobs, the newest last: what waits and why, what runs, what has ended."""
    body: dict[str, Any] = {"unfinished": unfinished, "limit": limit, "offset": offset}
    if ids:
        body["jobs"] = [one.job for one in resolve(context, [ids])]
    answer = context.ask("jobs", body)
    found = sorted(map(summary, answer["rows"]), key=lambda row: int(row["id"]))
    rows(context, "jobs", QUEUE, found, total=answer["total"])


QUEUE = (
    Column("ID", right=True),
    Column("NAME", cut=True),
    Column("ST", "code"),
    Column("TASKS", right=True),
    Column("DONE", right=True),
    Column("FAIL", right=True),
    Column("TIME", lambda row: duration(row["time_s"]), right=True),
    Column("RANKS", lambda row: row["ranks"] or "", right=True),
    Column("REASON", cut=True),
)


def summary(row: Mapping[str, Any], now: float | None = None) -> dict[str, Any]:
    """A job of the desk as ``queue`` shows it."""
    states: Mapping[str, int] = row["states"]
    failed = sum(states.get(state, 0) for state in _WORST_FIRST)
    started, ended = row.get("started"), row.get("ended")
    seconds = None if started is None else (ended or now or time.time()) - started
    running = states.get("RUNNING", 0)
    reason = row.get("reason") or ""
    return {
        "id": row["job"],
        "name": row["name"] or row["socket"],
        "code": state_code(row),
        "tasks": row["tasks"],
        "done": states.get("COMPLETED", 0),
        "fail": failed,
        "time_s": seconds or 0.0,
        "ranks": running,
        "reason": f"({reason})" if reason and reason != "None" else "",
        "states": dict(states),
        "submitted": row.get("opened_at"),
        "started": started,
        "ended": ended,
        "owner": row["owner"],
    }


def state_code(row: Mapping[str, Any]) -> str:
    """Slurm's two letters for a whole job."""
    states = row["states"]
    if row["done"]:
        return next((_CODES[state] for state in _WORST_FIRST if states.get(state)), "CD")
    final = sum(count for state, count in states.items() if state not in ("PENDING", "RUNNING"))
    return "R" if states.get("RUNNING") or final else "PD"


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="JOB...")
@click.option("--timeout", metavar="TIME", help="Wait at most so long: seconds, or 5m, 1:00:00; then exit 124.")
@click.option("--ignore-failures", is_flag=True, help="Exit 0 also when tasks failed.")
@output_options
@progress_option
@reads
@pass_context
def wait(
    context: Context, ids: tuple[str, ...], timeout: str | None, ignore_failures: bool, output: str | None,
    unordered: bool, progress: str,
) -> None:  # fmt: skip
    """Wait until jobs have ended; exit 1 if a task failed or was cancelled, 124 if it takes too long.

    With --output the results of jobs that have ended long ago can be had, too.
    """
    deadline = None if timeout is None else time.monotonic() + parse.seconds(timeout)
    check_output(output, unordered)
    tallies = []
    told = sys.stderr if output == "-" else sys.stdout
    with ExitStack() as files:
        file = files.enter_context(opened(output)) if output is not None else None
        for one in resolve(context, ids):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with Progress(f"job {one.job}", progress) as shown:
                tallies.append(_follow(context, one, shown, left, file, unordered))
            if not context.json:
                print(_summary(tallies[-1], shown.elapsed_s), file=told)
    late = [tally.job for tally in tallies if not tally.complete]
    failed = sum(tally.failed for tally in tallies)
    if context.json:
        print_json(
            {
                "jobs": [
                    {
                        "job": t.job,
                        "name": t.name,
                        "tasks": t.total,
                        "done": t.done,
                        "failed": t.failed,
                        "states": t.states,
                    }
                    for t in tallies
                ]
            },
            told,
        )
    raise SystemExit(TOO_LATE if late else 1 if failed and not ignore_failures else 0)


def _follow(
    context: Context, one: Ids, shown: Progress, left_s: float | None, file: FileIO | None, unordered: bool
) -> Tally:
    inbox = context.session.watch(one.job)
    inbox.wait(lambda: inbox.described, None, f"job {one.job}")
    if one.indices is not None:
        raise UsageError(
            "`wait` waits for whole jobs",
            where=f"{one.job}.{one.indices[0]}",
            fix=f"write `pyfi wait {one.job}`",
        )
    lines = ResultLines(context, lambda: one.job, file).write if file is not None else None
    return Follower(context.session, inbox, lines, in_order=not unordered).run(shown, left_s)


def _summary(tally: Tally, elapsed_s: float) -> str:
    total = tally.total if tally.total >= 0 else "?"
    state = "" if tally.complete else "  not ended"
    counts = f"{tally.done}/{total} results  failed={tally.failed}"
    return f"job {tally.job}  {tally.name}  {counts}  {elapsed_s:.1f} s{state}"


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="JOB|JOB.TASK...")
@reads
@pass_context
def cancel(context: Context, ids: tuple[str, ...]) -> None:
    """End jobs or single tasks: queued ones are not run, running ones are ended.

    \b
      pyfi cancel last        pyfi cancel 17.3        pyfi cancel 1-10        pyfi cancel all
    """
    ended = []
    for one in resolve(context, ids):
        if one.indices is None:
            count = context.session.cancel(one.job)
        elif isinstance(one.indices, range) and one.indices.step == 1:
            count = context.session.cancel(one.job, one.indices[0], len(one.indices))
        else:
            count = sum(context.session.cancel(one.job, index, 1) for index in one.indices)
        ended.append({"job": one.job, "cancelled": count})
        if not context.json:
            click.echo(
                f"job {one.job}: {count} task{'s' * (count != 1)} cancelled" + ("" if count else " (it has ended)")
            )
    if context.json:
        print_json({"jobs": ended})


@click.command()
@click.argument("task_id", metavar="JOB.TASK")
@click.option("-e", "--err", is_flag=True, help="Only its standard error, on standard output.")
@click.option("-o", "--out", is_flag=True, help="Only its standard output.")
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt; default: the last.")
@reads
@pass_context
def logs(context: Context, task_id: str, err: bool, out: bool, attempt: int | None) -> None:
    """Print what a task wrote: its output to standard output, its errors to standard error."""
    answer = context.ask("output", {"id": task_id})
    if attempt is not None:
        found = [one for one in answer["attempts"] if one["attempt"] == attempt]
        if not found:
            known = ", ".join(str(one["attempt"]) for one in answer["attempts"]) or "none"
            raise NotFound(f"task {task_id} has no attempt {attempt}", fix=f"it has: {known}")
        answer = {**answer, **found[0]}
    if context.json:
        print_json(answer)
        return
    if not err:
        sys.stdout.buffer.write(answer["stdout"])
        sys.stdout.buffer.flush()
    if not out:
        stream = sys.stdout if err else sys.stderr
        stream.buffer.write(answer["stderr"])
        stream.buffer.flush()
    if not answer["final"] and not answer["attempts"]:
        click.echo(f"task {task_id} has not ended; its output comes with its result", err=True)


def resolve(context: Context, texts: tuple[str, ...] | list[str]) -> list[Ids]:
    """Ids with ``last`` and ``all`` looked up.

    Raises
    ------
    NotFound
        There is no job yet.
    """
    return list(_resolved(context, parse.ids(texts)))


def _resolved(context: Context, found: list[Ids | str]) -> Iterator[Ids]:
    for one in found:
        if isinstance(one, Ids):
            yield one
        elif one == parse.ALL:
            page = context.ask("jobs", {"unfinished": True, "limit": _PAGE})["rows"]
            yield from (Ids(row["job"]) for row in sorted(page, key=lambda row: int(row["job"])))
        else:
            page = context.ask("jobs", {"limit": 1})["rows"]
            if not page:
                raise NotFound("there is no job yet", where="last", fix="`pyfi task run` or `pyfi map` make one")
            yield Ids(page[0]["job"])
