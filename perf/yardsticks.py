"""Small schedulers to hold ours against: each knows at once when a rank is free, and costs nothing.

    fifo     in the order of arrival; who does not fit is waited for, and nobody passes
    random   any of those that fit, by chance
    easy     as fifo, but a later task may pass if by the estimates the first one does not start later for it: Lifka,
             "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001

None knows shares or priorities.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from workloads import Task


@dataclass(slots=True)
class Machine:
    """Ranks, what runs on them, and who waits."""

    free: int
    now: float = 0.0
    #: tasks by their place in the workload, in the order of arrival
    waiting: list[int] = field(default_factory=list)
    #: (end, place)
    running: list[tuple[float, int]] = field(default_factory=list)
    starts: dict[int, float] = field(default_factory=dict)

    def start(self, place: int, task: Task) -> None:
        self.free -= task.width
        self.starts[place] = self.now
        heapq.heappush(self.running, (self.now + task.seconds, place))


#: starts some of those that wait, and takes them from the list
Policy = Callable[[Machine, Sequence[Task]], None]


def play(tasks: Sequence[Task], ranks: int, policy: Policy) -> list[float]:
    """When each task starts. Widths over the number of ranks are cut to it."""
    tasks = [task if task.width <= ranks else _cut(task, ranks) for task in tasks]
    machine = Machine(ranks)
    coming = sorted(range(len(tasks)), key=lambda place: tasks[place].at)
    coming.reverse()
    while coming or machine.running:
        next_end = machine.running[0][0] if machine.running else float("inf")
        next_arrival = tasks[coming[-1]].at if coming else float("inf")
        machine.now = min(next_end, next_arrival)
        while machine.running and machine.running[0][0] <= machine.now:
            machine.free += tasks[heapq.heappop(machine.running)[1]].width
        while coming and tasks[coming[-1]].at <= machine.now:
            machine.waiting.append(coming.pop())
        if machine.free and machine.waiting:
            policy(machine, tasks)
    return [machine.starts[place] for place in range(len(tasks))]


def fifo(machine: Machine, tasks: Sequence[Task]) -> None:
    count = 0
    for place in machine.waiting:
        if tasks[place].width > machine.free:
            break
        machine.start(place, tasks[place])
        count += 1
    del machine.waiting[:count]


def at_random(seed: int) -> Policy:
    chance = random.Random(f"yardstick {seed}")

    def policy(machine: Machine, tasks: Sequence[Task]) -> None:
        misfits: list[int] = []
        waiting = machine.waiting
        while waiting and machine.free:
            at = chance.randrange(len(waiting))
            waiting[at], waiting[-1] = waiting[-1], waiting[at]
            place = waiting.pop()
            if tasks[place].width <= machine.free:
                machine.start(place, tasks[place])
            else:
                misfits.append(place)
        waiting += misfits

    return policy


def easy(machine: Machine, tasks: Sequence[Task]) -> None:
    fifo(machine, tasks)
    if not machine.waiting or not machine.free:
        return
    shadow, spare = _reservation(machine, tasks)
    kept = machine.waiting[:1]
    for place in machine.waiting[1:]:
        task = tasks[place]
        in_time = machine.now + task.estimate_s <= shadow
        if task.width <= machine.free and (in_time or task.width <= spare):
            spare -= 0 if in_time else task.width
            machine.start(place, task)
        else:
            kept.append(place)
    machine.waiting = kept


def _reservation(machine: Machine, tasks: Sequence[Task]) -> tuple[float, int]:
    """When the first that waits can start, by the estimates, and how many ranks are left over then."""
    free, wanted = machine.free, tasks[machine.waiting[0]].width
    # who runs longer than was said may end at any time
    ends = sorted(
        (max(machine.now, machine.starts[place] + tasks[place].estimate_s), tasks[place].width)
        for _, place in machine.running
    )
    for at, width in ends:
        free += width
        if free >= wanted:
            return at, free - wanted
    raise AssertionError("all ranks together are enough for any task")


def _cut(task: Task, ranks: int) -> Task:
    return replace(task, width=ranks)
