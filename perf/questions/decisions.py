"""Does a decision of the broker cost more when more tasks wait, or when there are more ranks?

The shipping machine of the broker in the simulator: real decisions, an imagined network, ledger and ranks. Only the
processor time of the broker's own rounds is counted, while the same number of tasks runs out of a longer and longer
queue, or through more and more ranks. All lengths take turns, so that a change of the machine's speed hits all alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import Plan
from figure import Figure, short

from pyfi_hpc.sim import scale
from pyfi_hpc.sim.cluster import Cluster
from pyfi_hpc.sim.cluster import Plan as ClusterPlan

#: of each imagined task
_SECONDS = "0.1"
_RANKS = 100


def ask(plan: Plan) -> Iterator[Figure]:
    queued = [1_000, 10_000, 100_000] if plan.quick else [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
    measured = plan.size(20_000, 2_000)
    yield from _curve(plan, "queued", queued, lambda length: _cost(plan, _RANKS, length, measured), bar=1.1)
    ranks = [100, 1_000] if plan.quick else [100, 1_000, 10_000, 100_000]
    yield from _curve(plan, "ranks", ranks, lambda count: _cost(plan, count, count, max(measured, count)), bar=0.0)


def _curve(
    plan: Plan, of: str, places: list[int], cost_us: Callable[[int], tuple[float, float]], bar: float
) -> Iterator[Figure]:
    costs: dict[int, list[tuple[float, float]]] = {place: [] for place in places}
    for _ in range(plan.runs):
        for place in places:
            costs[place].append(cost_us(place))
    for place in places:
        decision, task = zip(*costs[place], strict=True)
        yield Figure(
            f"decision with {short(place)} {of}", decision, "us", False, series=f"decision/{of}", x=place,
            note=f"{statistics.median(task):.3g} us a task",
        )  # fmt: skip
    first, last = places[0], places[-1]
    ratios = [b / a for (a, _), (b, _) in zip(costs[first], costs[last], strict=True)]
    yield Figure(f"{short(last)} {of} against {short(first)}", tuple(ratios), "times", False, 0, bar, (1.0,))


def _cost(plan: Plan, ranks: int, queued: int, measured: int) -> tuple[float, float]:
    """Processor time of the broker, microseconds: of a decision, of a task.

    So many tasks wait all the time: those that are measured come on top of them.
    """
    nodes = -(-ranks // scale.RANKS_PER_NODE)
    cluster = Cluster(
        plan.seed, ClusterPlan(nodes=nodes, ranks_per_node=ranks // nodes, real_ranks=False, rank_beat_s=4.0)
    )
    cluster.audited = cluster.net.codec = False
    broker = cluster.broker
    assert broker is not None
    broker.round_s = 0.001
    clock = _Clock(cluster, broker)
    cluster.run_for(1.5)
    client = cluster.join()
    # what every start costs comes first: the agents learn how long a task takes
    total = 2 * ranks + measured + queued
    sizes = [min(scale.BATCH_TASKS, total - at) for at in range(0, total, scale.BATCH_TASKS)]
    client.submit_batches([[_SECONDS] * size for size in sizes], [b""] * len(sizes))
    gc.collect()
    gc.freeze()
    try:
        cluster.run(lambda: len(cluster.executed) >= 2 * ranks, 100.0)
        clock.begin()
        cluster.run(lambda: len(cluster.executed) >= 2 * ranks + measured, 10_000.0)
        seconds, decisions = clock.end()
    finally:
        gc.unfreeze()
    return 1e6 * seconds / decisions, 1e6 * seconds / measured


class _Clock:
    """What the rounds of one host take."""

    def __init__(self, cluster: Cluster, host: Any) -> None:
        self._cluster = cluster
        self._seconds = 0.0
        self._decisions = 0
        self._round = host._round
        host._round = self._timed

    def begin(self) -> None:
        self._seconds, self._decisions = 0.0, 0

    def end(self) -> tuple[float, int]:
        return self._seconds, self._decisions

    def _timed(self, events: Any) -> None:
        before, begun = self._cluster.decisions, time.thread_time()
        self._round(events)
        self._seconds += time.thread_time() - begun
        self._decisions += self._cluster.decisions - before
