"""``pyfi map``: one function over many inputs, as one job."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import IO, Any

import click

from pyfi_hpc.cli import parse
from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.follow import Follower, Tally
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.cli.progress import Progress, progress_option
from pyfi_hpc.errors import UsageError

#: positional and keyword arguments
Call = tuple[tuple[Any, ...], dict[str, Any]]


@click.command("map")
@click.argument("socket")
@click.argument("items", required=False, metavar="[1-1000]")
@click.option("--each-line", type=click.File("r"), metavar="FILE", help="One task a line of text; - is standard input.")
@click.option(
    "--from-jsonl",
    type=click.File("r"),
    metavar="FILE",
    help="One task a line of JSON: a list is the arguments, an object those by name.",
)
@click.option("--wait", "wait", is_flag=True, help="Wait until all tasks have ended; exit 1 if one failed.")
@click.option("-n", "--name", default="", help="Name of the job; default: the socket's.")
@click.option("--retries", type=click.IntRange(0, 1000), default=0, help="Tries after one that raised.")
@click.option("--time", "time_limit", metavar="TIME", help="Time limit of each task: 90s, 5m, 1:00:00.")
@click.option("--priority", type=int, default=0, help="Higher runs first.")
@progress_option
@reads
@pass_context
def map_command(
    context: Context,
    /,
    socket: str,
    items: str | None,
    each_line: IO[str] | None,
    from_jsonl: IO[str] | None,
    wait: bool,
    progress: str,
    **options: Any,
) -> None:
    """Run a function for each of many inputs, as one job. Without --wait it is safe to log out.

    \b
      pyfi map hello.square 1-1000 --wait
      pyfi map model.simulate --each-line params.txt --time 5m
      seq 5 | pyfi map hello.shout --each-line -
    """
    from pyfi_hpc.cli.stream import CallStream
    from pyfi_hpc.client.options import DEFAULT

    if sum(source is not None for source in (items, each_line, from_jsonl)) != 1:
        raise click.UsageError("give one of: a range such as 1-1000, --each-line FILE, --from-jsonl FILE")
    calls = _calls(items, each_line, from_jsonl)
    stream = CallStream(context.session, socket, DEFAULT.but(**{**options, "name": options["name"] or socket}), calls)
    follower = Follower(context.session, stream.inbox)

    def more() -> bool:
        if stream.has_room(follower.next):
            stream.submit_batch()
            return True
        return False

    with Progress(f"map {socket}", progress if wait else "none") as shown:
        while more():
            follower.drain()
        if stream.exhausted and not stream.submitted:
            raise UsageError("there is nothing to do: no inputs", where=f"map {socket}")
        try:
            tally = _finish(stream, follower, shown, more, wait)
        except KeyboardInterrupt:
            _say_it_goes_on(stream)
            raise
    job = tally.job
    if not wait:
        if context.json:
            print_json({"job": job, "tasks": stream.submitted})
        else:
            click.echo(f"Submitted map {job} ({stream.submitted} tasks).")
        return
    _summary(context, tally, socket, shown.elapsed_s)
    raise SystemExit(1 if tally.failed else 0)


def _finish(stream: Any, follower: Follower, shown: Progress, more: Any, wait: bool) -> Tally:
    """To the end of the job, or without ``wait`` until all of it is in the ledger."""
    if wait:
        return follower.run(shown, more=more)
    while not stream.exhausted:
        if not more():  # full: results make room
            stream.inbox.wait(lambda: stream.inbox.has(follower.next), None, "room for more tasks")
        follower.drain()
    stream.session.wait_accepted(lambda: bool(stream.submission.job or stream.submission.error))
    stream.session.flush()
    if stream.submission.error is not None:
        raise stream.submission.error
    return follower.tally()


def _say_it_goes_on(stream: Any) -> None:
    if stream.exhausted and stream.submission.job:
        print(
            f"\njob {stream.submission.job} goes on; `pyfi cancel {stream.submission.job}` ends it",
            file=sys.stderr,
        )
    else:
        stream.stop()


def _summary(context: Context, tally: Tally, socket: str, elapsed_s: float) -> None:
    if context.json:
        print_json(
            {
                "job": tally.job,
                "socket": socket,
                "tasks": tally.total,
                "states": tally.states,
                "failed": tally.failed,
                "elapsed_s": round(elapsed_s, 3),
            }
        )
        return
    counts = f"{tally.done}/{tally.total}  100%  failed={tally.failed}"
    speed = f"{elapsed_s:.1f} s  {tally.done / max(elapsed_s, 1e-9):.0f}/s"
    click.echo(f"map {tally.job}  {socket}  {counts}  {speed}")


def _calls(items: str | None, lines: IO[str] | None, records: IO[str] | None) -> Iterator[Call]:
    if items is not None:
        found = parse.numbers(items)
        if found is None:
            raise UsageError(
                f"{items!r} is no range of numbers", where="map",
                fix="write 1-1000, 0-100:10 or 1,3,5-8; inputs from a file come with --each-line FILE",
            )  # fmt: skip
        return (((number,), {}) for number in found)
    if lines is not None:
        return (((text.rstrip("\r\n"),), {}) for text in lines)
    assert records is not None
    return _from_json(records)


def _from_json(lines: IO[str]) -> Iterator[Call]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UsageError(f"line {number} is not JSON: {error}", where=getattr(lines, "name", "")) from None
        if isinstance(value, dict):
            yield (), value
        else:
            yield (tuple(value) if isinstance(value, list) else (value,)), {}
