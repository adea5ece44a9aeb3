"""How short may tasks be, alone and with others' results as arguments, until half of the ideal speed is lost?

METG(50%) as in the Task Bench paper: of independent tasks by one map; of a stencil (each step's tasks take the
results of three neighbours), of fans (one task, many that take its result, one that takes all of theirs, and again)
and of a tree (each takes two results), where every task is a submit of its own with futures as arguments.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import bench
import work
from bench import Plan
from figure import Figure, short

from pyfi_hpc import Executor

_FAN = 32


def stencil(submit: Callable[..., Any], ranks: int, tasks: int) -> list[Any]:
    width = 4 * ranks
    row = [submit() for _ in range(width)]
    made = list(row)
    for _ in range(max(1, tasks // width - 1)):
        row = [submit(*row[max(0, i - 1) : i + 2]) for i in range(width)]
        made += row
    return made


def fans(submit: Callable[..., Any], ranks: int, tasks: int) -> list[Any]:
    made = [submit()]
    while len(made) < max(tasks, 2):
        middle = [submit(made[-1]) for _ in range(_FAN)]
        made += [*middle, submit(*middle)]
    return made


def tree(submit: Callable[..., Any], ranks: int, tasks: int) -> list[Any]:
    level = [submit() for _ in range(1 << max(2, (tasks // 2).bit_length() - 1))]
    made = list(level)
    while len(level) > 1:
        level = [submit(level[i], level[i + 1]) for i in range(0, len(level), 2)]
        made += level
    return made


_PATTERNS = {"stencil": stencil, "fans": fans, "tree": tree}


def ask(plan: Plan) -> Iterator[Figure]:
    goal_s = plan.size(7, 4) / 10
    with bench.fresh_instance(plan.ranks), Executor() as executor:
        bench.warm(executor)
        for kind in work.KINDS:

            def run(seconds: float, kind: str = kind) -> work.Fill:
                tasks = work.tasks_for(seconds, plan.ranks, goal_s, 100_000)
                return work.fill(lambda: work.independent(executor, kind, seconds, tasks), plan.ranks)

            yield from _metg(plan, f"independent, tasks {kind}", run, 0.002, 30.0)
        for name, pattern in _PATTERNS.items():

            def run_graph(seconds: float, pattern: Callable[..., list[Any]] = pattern) -> work.Fill:
                tasks = work.tasks_for(seconds, plan.ranks, goal_s, 2_000)

                def results() -> Iterator[float]:
                    made = pattern(lambda *inputs: executor.submit("noop.wait", seconds, *inputs), plan.ranks, tasks)
                    return (future.result() for future in made)

                return work.fill(results, plan.ranks)

            yield from _metg(plan, f"{name}, tasks wait", run_graph, 0.016, 0.0)


def _metg(
    plan: Plan, name: str, run: Callable[[float], work.Fill], longest_s: float, reach_us: float
) -> Iterator[Figure]:
    found, points = [], []
    for _ in range(plan.runs):
        seconds, measured = work.half_efficient_s(run, longest_s)
        found.append(1e6 * seconds)
        points.append(measured)
    yield Figure(f"METG {name}", tuple(found), "us", False, 0, reach_us)
    for group in zip(*points, strict=False):
        length_s = statistics.median(point.length_s for point in group)
        rates = tuple(point.tasks_per_s for point in group)
        yield Figure(
            f"{name}, {short(1e6 * length_s)} us", rates, "tasks/s", True, 0, 0, (plan.ranks / length_s,), "",
            f"length/{name}", length_s, quiet=True,
        )  # fmt: skip
