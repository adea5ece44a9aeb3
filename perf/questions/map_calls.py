"""How many calls of a function that does nothing does a map pass through in a second?

From ``map`` to the last result in the client. Client, broker, agent, ranks and Postgres share the cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import bare
import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor


def ask(plan: Plan) -> Iterator[Figure]:
    tasks = plan.size(100_000, 20_000)
    rates, ideal = [], []
    with bench.fresh_instance(plan.ranks) as settings, bare.parts(settings) as parts, Executor() as executor:
        bench.warm(executor)
        for _ in range(plan.runs):
            seconds = bench.timed(lambda: sum(1 for _ in executor.map("noop.noop", range(tasks))))
            rates.append(tasks / seconds)
            ideal.append(parts.tasks_per_s(tasks, 2048))
    yield Figure("no-op calls by map", tuple(rates), "tasks/s", True, 20_000, 200_000, tuple(ideal))
