"""How many calls a second pass that take a numpy array of 1 MB and return one?

Single submits, all in flight at once; both arrays go through the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator

import bare
import bench
import numpy
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

_BYTES = 1_000_000


def ask(plan: Plan) -> Iterator[Figure]:
    calls = plan.size(300, 40)
    array = numpy.arange(_BYTES // 8, dtype=numpy.float64)
    ideal: list[float] = []
    with (
        bench.fresh_instance(plan.ranks, "arrays") as settings, bare.parts(settings) as parts, Executor() as executor
    ):  # fmt: skip

        def run() -> None:
            futures = [executor.submit("arrays.twice", array) for _ in range(calls)]
            results = [future.result() for future in futures]
            assert all(result[-1] == 2 * array[-1] for result in results)

        def one() -> float:
            # several share a commit when all are in flight
            ideal.append(parts.tasks_per_s(calls, 8, _BYTES))
            return calls / bench.timed(run)

        run()
        runs = plan.times(one)
    yield Figure("1 MB array in and out", runs, "calls/s", True, 0, 300, tuple(ideal))
