"""Workloads for the trace player: made from a seed, read from the Standard Workload Format, or from a ledger."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pyfi_hpc.errors import UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """What somebody submits."""

    at: float  #: seconds from the workload's begin
    seconds: float
    owner: str = "a"
    width: int = 1  #: ranks that it takes at the same time
    priority: int = 0
    #: what its owner says that it takes at most; only EASY is told
    estimate_s: float = 0.0

    @property
    def work(self) -> float:
        return self.seconds * self.width


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks in the order in which they come."""

    name: str
    tasks: tuple[Task, ...]
    #: of owners, where they are not 1
    weights: tuple[tuple[str, float], ...] = ()

    def weight(self, owner: str) -> float:
        return dict(self.weights).get(owner, 1.0)

    @property
    def work(self) -> float:
        return sum(task.work for task in self.tasks)

    def narrow(self) -> Workload:
        """Each wide task as so many of one rank, which need not run together."""
        tasks = [replace(task, width=1) for task in self.tasks for _ in range(task.width)]
        return replace(self, tasks=tuple(tasks))

    def faster(self, times: float) -> Workload:
        """All times divided."""
        tasks = [
            replace(t, at=t.at / times, seconds=t.seconds / times, estimate_s=t.estimate_s / times) for t in self.tasks
        ]
        return replace(self, tasks=tuple(tasks))


# --- made ---------------------------------------------------------------------------------------------

#: of durations: half of the tasks are shorter; one in forty is more than twelve times as long
_MEDIAN_S, _SIGMA, _LONGEST_S = 1.0, 1.3, 120.0


def steady(seed: int, ranks: int, count: int) -> Workload:
    """Tasks come one by one, at chance times, and want nine tenths of the ranks. One of four owners sends half."""
    chance = random.Random(f"steady {seed}")
    at, tasks = 0.0, []
    lengths = [_seconds(chance) for _ in range(count)]
    gap_s = sum(lengths) / count / (0.9 * ranks)
    for seconds in lengths:
        at += chance.expovariate(1 / gap_s)
        tasks.append(_task(chance, at, seconds, chance.choice("aaabcd")))
    return Workload("steady", tuple(tasks))


def bursts(seed: int, ranks: int, count: int) -> Workload:
    """Maps: up to hundreds of tasks of about the same length come at once, then nothing; nine tenths of the ranks."""
    chance = random.Random(f"bursts {seed}")
    tasks: list[Task] = []
    at = 0.0
    while len(tasks) < count:
        size = min(count - len(tasks), 1 + int(chance.paretovariate(1.1) * 8), 40 * ranks)
        typical, owner = _seconds(chance), chance.choice("abcd")
        lengths = [typical * chance.uniform(0.7, 1.4) for _ in range(size)]
        tasks += [_task(chance, at, seconds, owner) for seconds in lengths]
        at += chance.expovariate(1.0) * sum(lengths) / (0.9 * ranks)
    return Workload("bursts", tuple(tasks))


def backlog(seed: int, ranks: int, count: int) -> Workload:
    """Three owners have enough to do: a, who comes first, with long tasks; b of twice the weight; c with short ones."""
    chance = random.Random(f"backlog {seed}")
    tasks = [_task(chance, 0.0, 2 * _seconds(chance), "a") for _ in range(count // 4)]
    tasks += [_task(chance, 1.0, _seconds(chance), "b") for _ in range(count // 4)]
    tasks += [_task(chance, 1.0, 0.3 * _seconds(chance), "c") for _ in range(count - len(tasks))]
    return Workload("backlog", tuple(tasks), (("b", 2.0),))


def gangs(seed: int, ranks: int, count: int) -> Workload:
    """As steady, and one task in five takes several ranks together, up to half of them."""
    chance = random.Random(f"gangs {seed}")
    narrow = steady(seed, ranks, count)
    widths = [chance.choice([1, 1, 1, 1, max(1, int(ranks / 2 ** chance.randint(1, 3)))]) for _ in narrow.tasks]
    stretch = sum(widths) / len(widths)
    tasks = [replace(t, width=w, at=t.at * stretch) for t, w in zip(narrow.tasks, widths, strict=True)]
    return Workload("gangs", tuple(tasks))


#: by name: seed, ranks, number of tasks
SHAPES: dict[str, Callable[[int, int, int], Workload]] = {
    shape.__name__: shape for shape in (steady, bursts, backlog, gangs)
}


def _seconds(chance: random.Random) -> float:
    return min(_LONGEST_S, chance.lognormvariate(0.0, _SIGMA) * _MEDIAN_S)


def _task(chance: random.Random, at: float, seconds: float, owner: str) -> Task:
    return Task(at, seconds, owner, estimate_s=seconds * chance.choice([1.0, 1.5, 3.0, 10.0]))


# --- read ---------------------------------------------------------------------------------------------


def read_swf(path: str | Path) -> Workload:
    """Jobs of a log in the Standard Workload Format: 18 numbers a line, -1 for what is not known, comments behind ";".

    What never ran is left out. Owners are the log's users.

    Raises
    ------
    UsageError
        It cannot be read, or a line is not of this format.
    """
    path = Path(path)
    tasks: list[Task] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the log: {error}", where=str(path), fix="give a text file") from None
    for number, line in enumerate(lines, 1):
        text = line.partition(";")[0].split()
        if not text:
            continue
        try:
            fields = [float(word) for word in text]
        except ValueError:
            fields = []
        if len(fields) != 18:
            raise UsageError(
                "this is no job of the Standard Workload Format", where=f"{path}, line {number}",
                fix="a job is 18 numbers; comments begin with a semicolon",
            )  # fmt: skip
        _, at, _, seconds, given, _, _, asked, estimate_s, _, _, user, *_ = fields
        width = int(given if given > 0 else asked)
        if seconds > 0 and width > 0:
            tasks.append(Task(at, seconds, f"u{user:.0f}", width, 0, max(estimate_s, seconds)))
    return _begun_at_zero(path.stem, tasks, str(path))


def read_ledger(url: str) -> Workload:
    """What a ledger holds of tasks that completed: when their job came, what they took, whose they were.

    Raises
    ------
    LedgerUnavailable
    UsageError
        Nothing has completed there.
    """
    from pyfi_hpc.ledger.connection import connect

    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.opened_at, t.duration_s::float8, coalesce(nullif(j.project, ''), j.owner), t.priority"
            " FROM task t JOIN job j ON j.id = t.job WHERE t.state = 'COMPLETED' AND t.duration_s > 0"
            " ORDER BY j.opened_at, t.job, t.index"
        )
        tasks = [Task(at, seconds, owner, 1, priority, seconds) for at, seconds, owner, priority in cursor.fetchall()]
    return _begun_at_zero("ledger", tasks, "the ledger")


def _begun_at_zero(name: str, tasks: Iterable[Task], where: str) -> Workload:
    found = sorted(tasks, key=lambda task: task.at)
    if not found:
        raise UsageError("there is no task that ran", where=where, fix="give another one")
    return Workload(name, tuple(replace(task, at=task.at - found[0].at) for task in found))
