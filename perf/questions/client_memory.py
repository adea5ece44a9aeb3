"""Does the client's memory stay flat while it maps over ten million items of a generator?

Resident memory of this process when a tenth of the results has come, and its largest growth from there to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import bench
import psutil
from bench import Plan
from figure import Figure, short

from pyfi_hpc import Executor


def ask(plan: Plan) -> Iterator[Figure]:
    tasks = plan.size(10_000_000, 150_000)
    grown, largest = [], []
    with bench.fresh_instance(plan.ranks), Executor() as executor:
        bench.warm(executor)
        # ten million take minutes: three runs, the first of them with the whole length
        for number in range(3):
            first, most = _follow(executor, tasks if number == 0 else max(tasks // 10, 150_000))
            grown.append(most - first)
            largest.append(most)
    yield Figure(f"client grows in a map of {short(tasks)}", tuple(grown), "MB", False, 0, 10, (0.0,))
    yield Figure(f"client's memory in a map of {short(tasks)}", tuple(largest), "MB", False)


def _follow(executor: Executor, tasks: int) -> tuple[float, float]:
    """Memory after a tenth, and the most after that, MB."""
    me = psutil.Process()
    first = most = 0.0
    step = max(1, tasks // 200)
    for number, _ in enumerate(executor.map("noop.noop", (k for k in range(tasks)))):
        if number % step == 0:
            memory = me.memory_info().rss / 1e6
            if number >= tasks // 10:
                first = first or memory
                most = max(most, memory)
    return first, most
