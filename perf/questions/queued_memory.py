"""How much memory does the broker take for each task that waits, when up to ten million do?

Arguments of 60 characters; no rank to run them. Resident memory before the first task is not counted in bytes a task.
"""

from __future__ import annotations

from collections.abc import Iterator

import bench
import raw
from bench import Plan
from figure import Figure, short


def ask(plan: Plan) -> Iterator[Figure]:
    # the floor is about a million
    lengths = (10_000, 100_000) if plan.quick else (10_000, 100_000, 1_000_000, 10_000_000)
    found: dict[int, list[tuple[float, float]]] = {length: [] for length in lengths}
    for _ in range(plan.runs if plan.quick else 3):
        with bench.fresh_instance(0) as settings, raw.filler(settings) as filler:
            broker = bench.daemon_process(settings, "broker")
            empty, queued = broker.memory_info().rss, 0
            for length in lengths:
                filler.queue(length - queued)
                queued = length
                memory = broker.memory_info().rss
                found[length].append((memory / 1e6, (memory - empty) / length))
    for length, values in found.items():
        memories, each = zip(*values, strict=True)
        yield Figure(
            f"broker with {short(length)} queued", memories, "MB", False, 300 if length == 1_000_000 else 0,
            series="queue", x=length,
        )  # fmt: skip
    yield Figure(f"each of {short(length)} queued tasks", each, "bytes", False, 0, 60 if length == 10_000_000 else 0)
