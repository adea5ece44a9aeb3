"""How many calls of a function that does nothing pass in a second, when each is submitted alone and has a future?

From the first ``submit`` until all results are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import bare
import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor


def ask(plan: Plan) -> Iterator[Figure]:
    tasks = plan.size(20_000, 5_000)
    rates, ideal = [], []
    with bench.fresh_instance(plan.ranks) as settings, bare.parts(settings) as parts, Executor() as executor:
        bench.warm(executor)

        def run() -> None:
            futures: list[Future[object]] = [executor.submit("noop.noop", k) for k in range(tasks)]
            for future in futures:
                future.result()

        for _ in range(plan.runs):
            rates.append(tasks / bench.timed(run))
            # 256 calls come together while a frame is on its way
            ideal.append(parts.tasks_per_s(tasks, 256))
    yield Figure("no-op calls by single submits", tuple(rates), "tasks/s", True, 0, 40_000, tuple(ideal))
