"""What does a call of several ranks cost beyond a plain one: gathering them, and a communicator, one after the other?

Eight ranks on two cores take turns, and MPI spins while it waits: there the figure is mostly that.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor


def ask(plan: Plan) -> Iterator[Figure]:
    calls = plan.size(200, 30)
    for ranks, reach in ((plan.ranks, 5.0), (8, 5.0)):
        more: list[float] = []
        with bench.fresh_instance(ranks), Executor() as executor:
            bench.warm(executor)
            meet = partial(_meet, executor.with_options(ranks=ranks))
            for _ in range(10):
                meet()
            for _ in range(plan.runs):
                plain = [bench.timed(lambda: executor.submit("noop.noop", 1).result()) for _ in range(calls)]
                gang = [bench.timed(meet) for _ in range(calls)]
                more.append(1000 * (statistics.median(gang) - statistics.median(plain)))
        yield Figure(f"a call of {ranks} ranks, beyond a plain one", tuple(more), "ms", False, 0, reach)


def _meet(together: Executor) -> None:
    together.submit("noop.meet").result()
