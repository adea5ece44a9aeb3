"""How good are the scheduler's decisions: utilisation, waits, makespan and shares next to FIFO, random and EASY?

The shipping broker and agents in the simulator play made workloads (workloads.py), a run a seed; so do small schedulers
that cost nothing and know everything at once (yardsticks.py). perf/trace prints all of them in one table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import trace_player
import workloads
from bench import Plan
from figure import Figure, short
from trace_player import Score


def ask(plan: Plan) -> Iterator[Figure]:
    ranks, tasks = plan.size(32, 16), plan.size(2_000, 200)
    seeds = range(plan.seed, plan.seed + plan.runs)
    for name, shape in workloads.SHAPES.items():
        found = trace_player.play(lambda seed, shape=shape: shape(seed, ranks, tasks), ranks, seeds)
        ideal = [score.utilisation * score.over_bound for score in found["pyfi"]]
        yield _figure(name, "utilisation", found, "%", True, 100.0, tuple(100.0 * value for value in ideal))
        yield _figure(name, "mean_wait_s", found, "s")
        yield _figure(name, "p95_wait_s", found, "s")
        yield _figure(name, "over_bound", found, "times", ideal=(1.0,))
        if not any(math.isnan(score.share_error) for scores in found.values() for score in scores):
            reach = 0.0 if plan.quick else 5.0
            yield _figure(name, "share_error", found, "%", times=100.0, ideal=(0.0,), reach=reach)


def _figure(
    shape: str, field: str, found: dict[str, list[Score]], unit: str, most: bool = False, times: float = 1.0,
    ideal: tuple[float, ...] = (), reach: float = 0.0,
) -> Figure:  # fmt: skip
    """Ours; the medians of the others stand behind it."""
    values = {name: [times * getattr(score, field) for score in scores] for name, scores in found.items()}
    others = ", ".join(f"{name} {short(statistics.median(runs))}" for name, runs in values.items() if name != "pyfi")
    words = field.removesuffix("_s").replace("_", " ")
    return Figure(f"{shape}: {words}", tuple(values["pyfi"]), unit, most, reach=reach, ideal=ideal, note=others)
