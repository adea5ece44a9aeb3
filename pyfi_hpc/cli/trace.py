"""``pyfi trace``: a job as Chrome trace events, for Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.cli.results import opened, write_all
from pyfi_hpc.cli.timeline import Lane, Slice, Timeline
from pyfi_hpc.model.states import TaskState


@click.command()
@click.argument("job", metavar="JOB")
@click.option("-o", "--output", metavar="FILE", type=click.Path(allow_dash=True, dir_okay=False),
              help="Where to write it, - is standard output; default: job-JOB.json.")  # fmt: skip
@reads
@pass_context
def trace(context: Context, job: str, output: str | None) -> None:
    """Write a job as a trace: one row for each rank, a slice for each task.

    \b
      pyfi trace last -o trace.json        then open it at https://ui.perfetto.dev or chrome://tracing
    """
    from pyfi_hpc.cli.report import read_timeline

    head, found = read_timeline(context, job)
    path = output or f"job-{head['job']}.json"
    with opened(path) as file:
        for block in text(events(head, found)):
            write_all(file, block)
    count = sum(len(lane.slices) for lane in found.lanes) + len(found.nowhere)
    if output == "-":
        return
    if context.json:
        print_json({"job": head["job"], "file": path, "slices": count, "ranks": len(found.lanes)})
    else:
        click.echo(f"{path}: {count} slices on {len(found.lanes)} ranks; open it at https://ui.perfetto.dev")


def text(found: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """The file, an event a line, in blocks: it is never in memory as a whole."""
    block = [b'{"displayTimeUnit": "ms", "traceEvents": [\n']
    for number, event in enumerate(found):
        block.append((",\n" if number else "").encode() + json.dumps(event, separators=(",", ":")).encode())
        if len(block) == 10_000:
            yield b"".join(block)
            block = []
    yield b"".join(block) + b"\n]}\n"


def events(head: dict[str, Any], found: Timeline) -> Iterator[dict[str, Any]]:
    """Names of nodes and ranks, then slices; times are microseconds since the job was submitted."""
    nodes = {lane.node: None for lane in found.lanes} | {node: None for node, _ in found.nowhere}
    pids = {node: number for number, node in enumerate(sorted(nodes), 1)}
    for node, pid in pids.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"node {node}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for lane in found.lanes:
        pid, tid = pids[lane.node], lane.rank + 1
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": f"rank {lane.rank}"}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
        yield from _slices(head["job"], found.start, lane, pid, tid)
    for node, one in found.nowhere:
        # nobody knows the rank: no slice, which would lie over others, but a mark at the time when it was noticed
        at = round((one.end - found.start) * 1e6, 3)
        yield _named(head["job"], one) | {"ph": "i", "s": "p", "ts": at, "pid": pids[node], "tid": 0}


def _slices(job: int, origin: float, lane: Lane, pid: int, tid: int) -> Iterator[dict[str, Any]]:
    cursor = 0
    for one in lane.slices:
        # nanoseconds, and never two at once: a viewer would nest them
        start = max(cursor, round((one.start - origin) * 1e9))
        cursor = max(start, round((one.end - origin) * 1e9))
        yield _named(job, one) | {
            "ph": "X", "ts": start / 1000, "dur": (cursor - start) / 1000, "pid": pid, "tid": tid,
        }  # fmt: skip


def _named(job: int, one: Slice) -> dict[str, Any]:
    event: dict[str, Any] = {
        "name": one.socket, "cat": "task",
        "args": {"task": f"{job}.{one.index}", "attempt": one.attempt, "state": one.word},
    }  # fmt: skip
    if one.lost:
        event |= {"name": f"{one.socket} (attempt failed: {one.word})", "cat": "failed", "cname": "terrible"}
        event["args"]["start"] = "the earliest that is possible"
    elif one.state is not TaskState.COMPLETED:
        event |= {"name": f"{one.socket} ({one.word})", "cat": "failed", "cname": "terrible"}
    return event
