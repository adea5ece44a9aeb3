"""How much of the ranks' time goes into tasks of 100 us, 1 ms, 10 ms and 100 ms?

Busy rank-seconds / allocated rank-seconds, from ``map`` to the last result: start, end and every gap between tasks
count against it. Tasks that wait show what the scheduling loses. Tasks that spin want a core each: with as many ranks
as cores they compete with client, broker, agent and Postgres, as on a laptop and not as on a node of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import bench
import work
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

#: to reach, percent, by length; for tasks that wait
_REACH = {0.001: 95.0, 0.01: 99.0}
_NAMES = {0.0001: "100 us", 0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms"}


def ask(plan: Plan) -> Iterator[Figure]:
    goal_s = plan.size(3, 1)
    with bench.fresh_instance(plan.ranks), Executor() as executor:
        for kind in work.KINDS:
            for seconds, name in _NAMES.items():
                tasks = work.tasks_for(seconds, plan.ranks, goal_s, 1_000_000)
                _once(executor, plan, kind, seconds, tasks // 4 + 1)
                fills = [_once(executor, plan, kind, seconds, tasks) for _ in range(plan.runs)]
                rate, took = max(f.tasks_per_s for f in fills), max(f.length_s for f in fills)
                yield Figure(
                    f"efficiency, {name}, tasks {kind}", tuple(f.efficiency for f in fills), "%", True, 0,
                    _REACH.get(seconds, 0) if kind == "wait" else 0, (100.0,), f"{rate:,.0f} tasks/s",
                    f"efficiency/{kind}", took,
                )  # fmt: skip


def _once(executor: Executor, plan: Plan, kind: str, seconds: float, tasks: int) -> work.Fill:
    return work.fill(lambda: work.independent(executor, kind, seconds, tasks), plan.ranks)
