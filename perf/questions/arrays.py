"""How many calls a second pass that take a numpy array of 1 MB and return one?

Single submits, all in flight at once; both arrays go through the ledger. The same array for all calls, as of a model
that many calls take: the ledger keeps it once. And another array for each, which is kept each time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import bare
import bench
import numpy
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

_BYTES = 1_000_000
#: the bare parts side by side: as many as are needed to leave no core idle
_LANES = 2


def ask(plan: Plan) -> Iterator[Figure]:
    calls = plan.size(200, 40)
    array = numpy.random.default_rng(plan.seed).standard_normal(_BYTES // 8)
    others = itertools.count(1)
    with (
        bench.fresh_instance(plan.ranks, "arrays") as settings,
        bare.lanes(settings, _LANES) as bare_calls_per_s, Executor() as executor,
    ):  # fmt: skip

        def same() -> None:
            futures = [executor.submit("arrays.twice", array) for _ in range(calls)]
            assert all(future.result()[-1] == 2 * array[-1] for future in futures)

        def other() -> None:
            factors = [next(others) for _ in range(calls)]
            futures = [executor.submit("arrays.twice", array * factor) for factor in factors]
            for future, factor in zip(futures, factors, strict=True):
                assert future.result()[-1] == 2 * (array * factor)[-1]

        def figure_of(name: str, run: Callable[[], None], kept: int) -> Figure:
            ideal: list[float] = []

            def one() -> float:
                ideal.append(bare_calls_per_s(calls, _BYTES, kept))
                return calls / bench.timed(run)

            return Figure(name, plan.times(one), "calls/s", True, 0, 300, tuple(ideal))

        same()
        yield figure_of("the same 1 MB array in and out", same, bare.CALL_BYTES)
        yield figure_of("another 1 MB array in and out", other, _BYTES)
