"""Does the efficiency hold when there are more ranks?

Tasks of 10 ms that wait, so that more ranks than cores say something about the scheduling; each number of ranks is an
instance of its own. In an allocation up to all of its ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import bench
import in_slurm
import work
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor

_SECONDS = 0.01


def ask(plan: Plan) -> Iterator[Figure]:
    for ranks in in_slurm.rank_counts(plan.ranks) if in_slurm.inside() else [1, 2, 4] + [8, 16] * (not plan.quick):
        with bench.fresh_instance(ranks), Executor() as executor:
            tasks = work.tasks_for(_SECONDS, ranks, plan.size(3, 1), 1_000_000)

            def run(executor: Executor = executor, ranks: int = ranks, tasks: int = tasks) -> float:
                return work.fill(lambda: work.independent(executor, "wait", _SECONDS, tasks), ranks).efficiency

            run()
            runs = plan.times(run)
        yield Figure(
            f"efficiency, 10 ms, {ranks} rank{'s' * (ranks > 1)}", runs, "%", True, 0, 0, (100.0,), "", "ranks", ranks
        )
