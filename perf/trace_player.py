"""Play a workload through the shipping scheduler in the simulator, and through yardsticks: what became of the ranks.

    perf/trace                                     made workloads, one table each
    perf/trace --shape bursts --ranks 64 --tasks 5000 --runs 5
    perf/trace --swf LOG.swf --speed 1000          a log in the Standard Workload Format, 1000 times as fast
    perf/trace --ledger URL                        what a ledger holds

Broker and agents are those that ship, with all their messages, on virtual time; ranks take as long as a task says, the
network and the ledger are imagined. The yardsticks (yardsticks.py) know everything at once, so what ours loses to
FIFO at one rank a task is what its messages cost.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby

import workloads
import yardsticks
from workloads import Task, Workload

from pyfi_hpc.errors import PyfiError, UsageError
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.terms import Terms, encode
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan

#: of an imagined node
_RANKS_PER_NODE = 16
#: until all ranks have said that they are there, seconds
_START_S = 1.5
#: how often the shares are looked at while everybody waits
_LOOKS = 50
#: the shares are not looked at in a time that is shorter than so many tasks, one after the other
_LEAST_TASKS = 20
#: of what was used half is forgotten, as in the broker, seconds
_HALF_LIFE_S = Limits().share_half_life_s


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a workload. Waits are from a task's arrival to its start."""

    utilisation: float  #: work over ranks times makespan
    mean_wait_s: float
    p95_wait_s: float
    makespan_s: float  #: from the first arrival to the last end
    over_bound: float  #: makespan over the least that any scheduler can do
    #: the largest difference of what somebody got from what his weight says, while all have tasks that wait, of 1;
    #: nan: there is no such time
    share_error: float


def bound_s(tasks: Sequence[Task], ranks: int) -> float:
    """No schedule ends sooner: what comes after any moment must be worked off, and the last to come must run."""
    least = max(task.at + task.seconds for task in tasks)
    left = 0.0
    for task in sorted(tasks, key=lambda task: -task.at):
        left += task.work
        least = max(least, task.at + left / ranks)
    return least


def score(work: Workload, starts: Sequence[float], ranks: int) -> Score:
    tasks = work.tasks
    ends = [start + task.seconds for start, task in zip(starts, tasks, strict=True)]
    waits = sorted(start - task.at for start, task in zip(starts, tasks, strict=True))
    makespan = max(ends)
    return Score(
        work.work / (ranks * makespan), statistics.fmean(waits), waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        makespan, makespan / bound_s(tasks, ranks), share_error(work, starts),
    )  # fmt: skip


def share_error(work: Workload, starts: Sequence[float]) -> float:
    """Of what has been used, as it counts by then; looked at in the second half of the longest time in which each owner
    has a task that waits. Tasks are not cut, so nothing can be said of a time in which few of them end."""
    owners = sorted({task.owner for task in work.tasks})
    begin, end = _all_wait(work, starts, owners)
    mean_s = statistics.fmean(task.seconds for task in work.tasks)
    if end - begin < _LEAST_TASKS * mean_s or len(owners) < 2:
        return float("nan")
    wanted = {owner: work.weight(owner) for owner in owners}
    total = sum(wanted.values())
    worst = 0.0
    for look in range(_LOOKS // 2, _LOOKS + 1):
        at = begin + (end - begin) * look / _LOOKS
        used = dict.fromkeys(owners, 0.0)
        for task, start in zip(work.tasks, starts, strict=True):
            if start < at:
                used[task.owner] += task.width * _decayed(max(0.0, at - start - task.seconds), at - start)
        everything = sum(used.values()) or 1.0
        worst = max(worst, *(abs(used[owner] / everything - wanted[owner] / total) for owner in owners))
    return worst


def _decayed(newer_s: float, older_s: float) -> float:
    """Seconds between two ages, as they count now."""
    rate = math.log(2.0) / _HALF_LIFE_S
    return (math.exp(-rate * newer_s) - math.exp(-rate * older_s)) / rate


def _all_wait(work: Workload, starts: Sequence[float], owners: Sequence[str]) -> tuple[float, float]:
    """The longest time in which each owner has a task that came and has not started."""
    changes = [(task.at, 1, task.owner) for task in work.tasks]
    changes += [(start, -1, task.owner) for start, task in zip(starts, work.tasks, strict=True)]
    changes.sort(key=lambda change: (change[0], -change[1]))
    waiting = dict.fromkeys(owners, 0)
    best, since = (0.0, 0.0), None
    for at, change, owner in changes:
        waiting[owner] += change
        if since is None and all(waiting.values()):
            since = at
        elif since is not None and not waiting[owner]:
            best, since = max(best, (since, at), key=lambda span: span[1] - span[0]), None
    return best


# --- ours ---------------------------------------------------------------------------------------------


class _Timed(Cluster):
    """Notes when each task starts; of one that is started again, the last time."""

    def execute(self, job: int, index: int, attempt: int, grant: int) -> None:
        self.began[job, index] = self.now
        super().execute(job, index, attempt, grant)

    began: dict[tuple[int, int], float]


def ours(work: Workload, ranks: int, seed: int) -> list[float]:
    """When each task starts under the shipping broker. Each owner is a project, and has a client of its own.

    A wide task is a gang; widths over the number of ranks are cut to it.
    """
    nodes = -(-ranks // _RANKS_PER_NODE)
    if ranks % nodes:
        raise UsageError(f"{ranks} ranks on {nodes} nodes", fix=f"give a multiple of {_RANKS_PER_NODE}, or less")
    plan = Plan(nodes=nodes, ranks_per_node=ranks // nodes, real_ranks=False, rank_beat_s=4.0, one_world=True)
    cluster = _Timed(seed, plan)
    cluster.began = {}
    cluster.audited = cluster.net.codec = False
    cluster.run_for(_START_S)
    broker = cluster.broker
    assert broker is not None
    broker.machine.state.queue.shares.weigh({("project", owner): weight for owner, weight in work.weights})
    clients = {task.owner: cluster.join(task.owner) for task in work.tasks}
    begin, order = cluster.now, sorted(range(len(work.tasks)), key=lambda place: work.tasks[place].at)
    sent: list[tuple[ClientHost, int, list[int]]] = []
    for (at, owner, priority, width), group in groupby(order, key=lambda place: _together(work.tasks[place])):
        places = list(group)
        seconds = [work.tasks[place].seconds for place in places]
        cluster.at(begin + at, _submit, clients[owner], seconds, priority, min(width, ranks), places, sent)
    last = max(task.at for task in work.tasks)
    cluster.run_for(last + 1e-6)
    cluster.run(lambda: all(client.satisfied for client in clients.values()), 10 * work.work + 100.0)
    starts = [0.0] * len(work.tasks)
    for client, number, places in sent:
        for index, place in enumerate(places):
            starts[place] = cluster.began[client.submissions[number].job, index] - begin
    return starts


def _together(task: Task) -> tuple[float, str, int, int]:
    return task.at, task.owner, task.priority, task.width


def _submit(
    client: ClientHost, seconds: list[float], priority: int, width: int, places: list[int],
    sent: list[tuple[ClientHost, int, list[int]]],
) -> None:  # fmt: skip
    sent.append((client, len(client.submissions), places))
    terms = encode(Terms(ranks=width if width > 1 else 0))
    client.submit([repr(round(one, 6)) for one in seconds], priority=priority, project=client.name, terms=terms)


# --- the table ----------------------------------------------------------------------------------------


def schedulers(seed: int) -> dict[str, Callable[[Workload, int], list[float]]]:
    """By name; ours first."""
    return {
        "pyfi": lambda work, ranks: ours(work, ranks, seed),
        "fifo": lambda work, ranks: yardsticks.play(work.tasks, ranks, yardsticks.fifo),
        "random": lambda work, ranks: yardsticks.play(work.tasks, ranks, yardsticks.at_random(seed)),
        "easy": lambda work, ranks: yardsticks.play(work.tasks, ranks, yardsticks.easy),
    }


def play(make: Callable[[int], Workload], ranks: int, seeds: Sequence[int]) -> dict[str, list[Score]]:
    """The scores of each scheduler, a run a seed."""
    found: dict[str, list[Score]] = {}
    for seed in seeds:
        work = make(seed)
        for name, scheduler in schedulers(seed).items():
            found.setdefault(name, []).append(score(work, scheduler(work, ranks), ranks))
    return found


def table(title: str, found: dict[str, list[Score]]) -> list[str]:
    """A line a scheduler: the median of its runs, and behind it the smallest and the largest."""
    names = [field.name for field in fields(Score)]
    lines = [title, f"{'':8}" + "".join(f"{name.removesuffix('_s').replace('_', ' '):>28}" for name in names)]
    for scheduler, scores in found.items():
        cells = [_cell([getattr(score, name) for score in scores]) for name in names]
        lines.append(f"{scheduler:8}" + "".join(f"{cell:>28}" for cell in cells))
    return lines


def _cell(values: list[float]) -> str:
    if any(value != value for value in values):
        return "-"
    return f"{statistics.median(values):.3g} ({min(values):.3g} .. {max(values):.3g})"


def main() -> int:
    made = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    made.add_argument("--shape", nargs="*", choices=workloads.SHAPES, default=list(workloads.SHAPES), metavar="NAME",
                      help=", ".join(workloads.SHAPES))  # fmt: skip
    made.add_argument("--swf", metavar="FILE", help="a log in the Standard Workload Format")
    made.add_argument("--ledger", metavar="URL", help="a ledger: what completed there")
    made.add_argument("--speed", type=float, default=1.0, metavar="N", help="all times divided by N")
    made.add_argument("--narrow", action="store_true", help="each wide task as so many of one rank")
    made.add_argument("--ranks", type=int, default=32, metavar="N", help="default 32")
    made.add_argument("--tasks", type=int, default=2000, metavar="N", help="of a made workload; default 2000")
    made.add_argument("--runs", type=int, default=3, metavar="N", help="seeds; default 3")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="the first of them; default 0")
    options = made.parse_args()
    try:
        for name, make in _wanted(options).items():
            seeds = range(options.seed, options.seed + options.runs)
            print("\n".join(table(f"-- {name}, {options.ranks} ranks", play(make, options.ranks, seeds))), flush=True)
    except PyfiError as error:
        print(f"{error.what}{f' ({error.where})' if error.where else ''}: {error.fix}", file=sys.stderr)
        return 2
    return 0


def _wanted(options: argparse.Namespace) -> dict[str, Callable[[int], Workload]]:
    def changed(work: Workload) -> Workload:
        work = work.faster(options.speed)
        return work.narrow() if options.narrow else work

    if options.swf or options.ledger:
        found = changed(workloads.read_swf(options.swf) if options.swf else workloads.read_ledger(options.ledger))
        return {found.name: lambda _seed: found}
    return {
        name: lambda seed, shape=workloads.SHAPES[name]: changed(shape(seed, options.ranks, options.tasks))
        for name in options.shape
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
