"""How long do 200 calls take of which each takes the result of the one before, all submitted at once?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bare
import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

_CALLS = 200


def ask(plan: Plan) -> Iterator[Figure]:
    ideal: list[float] = []
    with bench.fresh_instance(plan.ranks) as settings, bare.parts(settings) as parts, Executor() as executor:
        bench.warm(executor)

        def run() -> None:
            future: Any = 0
            for _ in range(_CALLS):
                future = executor.submit("noop.noop", future)
            assert future.result() == 0

        def least() -> None:
            parts.call()
            for _ in range(_CALLS - 1):
                parts.link()

        def one() -> float:
            # the broker has each argument already when its turn comes
            ideal.append(bench.timed(least))
            return bench.timed(run)

        run()
        runs = plan.times(one)
    yield Figure("chain of 200 dependent calls", runs, "s", False, 0, 0.2, tuple(ideal))
