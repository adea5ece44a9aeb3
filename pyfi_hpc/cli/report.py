"""``pyfi report``: a job as one page of HTML; and what it and ``pyfi trace`` read."""

from __future__ import annotations

import time
from typing import Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.cli.results import opened, write_all
from pyfi_hpc.cli.timeline import Timeline, build
from pyfi_hpc.errors import NotFound, UsageError

#: tasks that did not complete whose errors are asked for
_ERRORS_MAX = 20


@click.command()
@click.argument("job", metavar="JOB")
@click.option("-o", "--output", metavar="FILE", type=click.Path(allow_dash=True, dir_okay=False),
              help="Where to write it, - is standard output; default: job-JOB.html.")  # fmt: skip
@reads
@pass_context
def report(context: Context, job: str, output: str | None) -> None:
    """Write a page on a job: what each rank did and when, what its time went to, the slowest tasks, what failed.

    One file without scripts, for any browser. With --json the figures are printed; a page is written only with -o.

    \b
      pyfi report last -o report.html
    """
    from pyfi_hpc.cli.page import figures, page

    if context.json and output == "-":
        raise click.UsageError("--json and the page cannot both go to standard output")
    head, found = read_timeline(context, job)
    path = output or f"job-{head['job']}.html"
    if output or not context.json:
        content = page(head, found, _errors(context, found, head["job"]), time.time())
        with opened(path) as file:
            write_all(file, content.encode("utf-8", "replace"))
    if context.json:
        print_json({"report": figures(head, found)})
    elif output != "-":
        click.echo(f"{path}: {head['tasks']} tasks on {len(found.lanes)} ranks, {len(content) / 1000:.0f} kB")


def read_timeline(context: Context, text: str) -> tuple[dict[str, Any], Timeline]:
    """A job, by its id or ``last``, and when and where its tasks ran.

    Raises
    ------
    NotFound
        There is no such job.
    """
    from pyfi_hpc.cli.jobs import resolve
    from pyfi_hpc.cli.spans import read_spans

    wanted = resolve(context, [text])
    if len(wanted) != 1 or wanted[0].indices is not None:
        raise UsageError(f"{text!r} is not one job", fix="write 17 or last")
    job = wanted[0].job
    rows = context.ask("jobs", {"jobs": [job], "limit": 1})["rows"]
    if not rows:
        raise NotFound(f"there is no job {job}", fix="`pyfi queue` lists the latest")
    attempts = context.ask("attempts", {"job": job})["rows"]
    return rows[0], build(rows[0]["opened_at"], read_spans(context.ask, job), attempts)


def _errors(context: Context, found: Timeline, job: int) -> dict[int, str]:
    """What went wrong with the first tasks that did not complete."""
    from pyfi_hpc.cli.calls import _short

    if set(found.states) <= {"COMPLETED"}:
        return {}
    errors: dict[int, str] = {}
    for state in found.states:
        if state != "COMPLETED" and len(errors) < _ERRORS_MAX:
            body = {"job": job, "state": state, "limit": _ERRORS_MAX - len(errors)}
            for row in context.ask("calls", body)["rows"]:
                error = context.ask("call", {"id": row["id"]})["error"]
                errors[row["index"]] = f"{row['state']}  {_short(error)}"
    return errors
