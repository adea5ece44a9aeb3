"""How long does one call take from ``submit`` to its result when nothing else runs: the median, and one in a hundred?

Two commits and every hop, there and back. The bare parts are measured in turn with it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import bare
import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor


def ask(plan: Plan) -> Iterator[Figure]:
    calls = plan.size(1000, 200)
    medians, p99s, ideal, ideal99 = [], [], [], []
    with bench.fresh_instance(plan.ranks) as settings, bare.parts(settings) as parts, Executor() as executor:
        bench.warm(executor)
        for _ in range(plan.runs):
            seconds = [bench.timed(lambda: executor.submit("noop.noop", 1).result()) for _ in range(calls)]
            medians.append(1000 * statistics.median(seconds))
            p99s.append(1000 * p99(seconds))
            seconds = [bench.timed(parts.call) for _ in range(calls)]
            ideal.append(1000 * statistics.median(seconds))
            ideal99.append(1000 * p99(seconds))
    yield Figure("one call, submit to result, median", tuple(medians), "ms", False, 3, 1.2, tuple(ideal))
    yield Figure("one call, submit to result, p99", tuple(p99s), "ms", False, 0, 4, tuple(ideal99))


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]
