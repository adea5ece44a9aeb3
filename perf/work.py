"""Tasks that take time, and how much of the ranks' time went into them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyfi_hpc import Executor

#: how a task takes its time: without a processor, or with one; on as many cores as ranks the second kind competes
#: with client, broker, agent and Postgres
KINDS = ("wait", "spin")


@dataclass(frozen=True, slots=True)
class Fill:
    """What became of the ranks' time in one run."""

    #: mean of what the tasks took, seconds: a sleeper is woken late
    length_s: float
    #: busy rank-seconds of all rank-seconds, percent
    efficiency: float
    tasks_per_s: float


def fill(submit: Callable[[], Iterator[float]], ranks: int) -> Fill:
    """Run tasks that return how long they took."""
    begun = time.perf_counter()
    taken = list(submit())
    wall = time.perf_counter() - begun
    return Fill(sum(taken) / len(taken), 100 * sum(taken) / (ranks * wall), len(taken) / wall)


def independent(executor: Executor, kind: str, seconds: float, tasks: int) -> Iterator[float]:
    return executor.map(f"noop.{kind}", [seconds] * tasks)


def tasks_for(seconds: float, ranks: int, goal_s: float, most: int) -> int:
    """So many tasks that ideal ranks are busy with them for the goal; at least a few for each rank."""
    return max(4 * ranks, min(most, round(goal_s * ranks / seconds)))


def half_efficient_s(efficiency: Callable[[float], Fill], longest_s: float) -> tuple[float, list[Fill]]:
    """The task length at which half of the ideal speed is reached, and the points that were measured.

    Lengths are halved until the efficiency is below one half (or doubled until it is not); between the last two the
    length is interpolated on a logarithmic scale. Where one half is never crossed, the last length is the answer.

    Notes
    -----
    Source: E. Slaughter and others, "Task Bench: A Parameterized Benchmark for Evaluating Parallel Runtime
    Performance", SC20: minimum effective task granularity, METG(50%).
    """
    points = [efficiency(longest_s)]
    down = points[0].efficiency >= 50
    seconds = longest_s / 2 if down else longest_s * 2
    while 1e-6 < seconds <= 64 * longest_s and (points[-1].efficiency >= 50) == down:
        points.append(efficiency(seconds))
        seconds = seconds / 2 if down else seconds * 2
    last, before = points[-1], points[-2]
    if (last.efficiency >= 50) == down:
        return last.length_s, points
    part = (before.efficiency - 50) / (before.efficiency - last.efficiency)
    return before.length_s * math.exp(part * math.log(last.length_s / before.length_s)), points
