"""``pyfi map``: one function over many inputs, as one job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import click

from pyfi_hpc.cli import sweep
from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.items import lines_of
from pyfi_hpc.cli.many import Many, many_options
from pyfi_hpc.errors import UsageError

#: positional and keyword arguments
Call = tuple[tuple[Any, ...], dict[str, Any]]


@click.command("map")
@click.argument("socket")
@click.argument("items", nargs=-1, metavar="[1-1000:5%20 | --product A=1:3 B=x,y]")
@click.option("--each-line", type=click.File("rb"), metavar="FILE", help="One task a line; - is standard input.")
@click.option(
    "--from-jsonl", type=click.File("rb"), metavar="FILE",
    help="One task a line of JSON: a list is the arguments, an object those by name.",
)  # fmt: skip
@click.option("--product", is_flag=True, help="One task for each combination of NAME=VALUES, passed by name.")
@click.option("-n", "--name", default="", help="Name of the job; default: the socket's.")
@click.option("--time", "--time-limit", "time_limit", metavar="TIME", help="Of each task: 90s, 5m, 1:00:00.")
@many_options
@reads
@pass_context
def map_command(
    context: Context,
    /,
    socket: str,
    items: tuple[str, ...],
    each_line: IO[bytes] | None,
    from_jsonl: IO[bytes] | None,
    product: bool,
    name: str,
    **given: Any,
) -> None:
    """Run a function for each of many inputs, as one job. Without --wait it is safe to log out.

    \b
      pyfi map hello.square 1-1000 --wait
      pyfi map model.simulate 0-99:10%4                         at most 4 at once
      pyfi map model.train --product lr=0.1,0.01 seed=1:5 --output results.jsonl
      pyfi map model.simulate --each-line params.txt --time 5m
      seq 5 | pyfi map hello.shout --each-line - --output -
    """
    calls, at_once = _calls(items, each_line, from_jsonl, product)
    many = Many(context, f"map {socket}", **given)
    if at_once:
        many.limit(at_once)
    many.run(socket, name or socket, calls)


def _calls(
    items: tuple[str, ...], lines: IO[bytes] | None, records: IO[bytes] | None, product: bool
) -> tuple[Iterator[Call], int]:
    """What to run, and how many at once where the range says it."""
    if sum((bool(items), lines is not None, records is not None)) != 1:
        raise click.UsageError(
            "give one of: a range such as 1-1000, --product a=1:3 b=x,y, --each-line FILE, --from-jsonl FILE"
        )
    if lines is not None:
        return (((text,), {}) for text in lines_of(lines)), 0
    if records is not None:
        return _from_json(records), 0
    if product:
        return (((), named) for named in sweep.combinations(sweep.axes(items))), 0
    if len(items) > 1 or "=" in items[0]:
        raise click.UsageError(f"{' '.join(items)!r} is not one range; for combinations say --product a=1:3 b=x,y")
    numbers, at_once = sweep.array(items[0])
    return (((number,), {}) for number in numbers), at_once


def _from_json(lines: IO[bytes]) -> Iterator[Call]:
    for number, text in enumerate(lines_of(lines), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"line {number} is not JSON: {error}", where=lines.name,
                fix='write a value on each line: 7, ["a", 2] for two arguments, {"n": 2} for one by name',
            ) from None  # fmt: skip
        if isinstance(value, dict):
            yield (), value
        else:
            yield (tuple(value) if isinstance(value, list) else (value,)), {}
