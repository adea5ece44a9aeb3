"""How long does it take until 1,000 calls have taken the result of one, and one has taken the results of them all?

All 1,002 calls are submitted at once, with futures as arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

import bare
import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

_WIDTH = 1_000


def ask(plan: Plan) -> Iterator[Figure]:
    ideal: list[float] = []
    with bench.fresh_instance(plan.ranks) as settings, bare.parts(settings) as parts, Executor() as executor:
        bench.warm(executor)

        def run() -> None:
            root = executor.submit("noop.noop", 1)
            middle = [executor.submit("noop.noop", root) for _ in range(_WIDTH)]
            assert executor.submit("noop.count", *middle).result() == _WIDTH

        def least() -> None:
            parts.call()
            parts.link(_WIDTH * bare.TASK_BYTES)
            parts.link(_WIDTH * bare.TASK_BYTES)

        def one() -> float:
            ideal.append(bench.timed(least))
            return bench.timed(run)

        run()
        runs = plan.times(one)
    yield Figure("fan-out and fan-in of 1,000", runs, "s", False, 0, 0.05, tuple(ideal))
