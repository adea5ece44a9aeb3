"""The same work through our peers, in turn with ours: what ``perf/run --peers`` asks.

One round starts each peer once, asks it everything, and stops it; the order of the peers changes from round to round.
How many tasks a question takes is found at the first round, so that each takes about as long.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import venvs
from bench import Plan
from figure import Figure, short
from peer_host import OURS, PEERS, NotThere, PeerHost, PeerProblem, running

QUESTION = "peers"
#: a question that takes longer is given up, seconds
_LIMIT_S = 90.0
_KEEP_TASKS = 1_000
_KEEP_S = 0.02
#: no task has ended for so long: no more will, seconds
_QUIET_S = 12.0


@dataclass(frozen=True, slots=True)
class Work:
    """One question to a peer, and what its answer means."""

    ask: str
    name: str
    unit: str
    most: bool
    #: tasks at first, at most; equal: as many as the question says
    first: int
    largest: int
    #: from the answer and the number of tasks to the figure
    figure: Callable[[Any, int, int], float]
    given: dict[str, Any] = field(default_factory=dict)


def _rate(seconds: Any, tasks: int, workers: int) -> float:
    return float(tasks / seconds)


def _busy(answer: Any, tasks: int, workers: int) -> float:
    wall, taken = answer
    return float(100 * taken / (workers * wall))


WORK = (
    Work("map", "map", "tasks/s", True, 50, 100_000, _rate),
    Work("chunks", "map in chunks", "tasks/s", True, 1_000, 400_000, _rate, {"size": 500}),
    Work("submits", "submits", "tasks/s", True, 50, 50_000, _rate),
    Work("round_trip", "one call", "ms", False, 10, 500, lambda seconds, *_: 1000 * statistics.median(seconds)),
    Work("wait", "fill 1 ms", "%", True, 40, 20_000, _busy, {"seconds": 0.001}),
    Work("wait", "fill 10 ms", "%", True, 20, 2_000, _busy, {"seconds": 0.01}),
    Work("chain", "chain 200", "s", False, 200, 200, lambda seconds, *_: float(seconds)),
    Work("fan", "fan 1,000", "s", False, 1_000, 1_000, lambda seconds, *_: float(seconds)),
    Work("arrays", "1 MB arrays", "calls/s", True, 5, 500, _rate),
)
KEEP = "kept after kill -9"


@dataclass(slots=True)
class Found:
    """What is known of a peer."""

    about: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    #: work -> why there is no figure; "": the peer itself is not there
    missing: dict[str, str] = field(default_factory=dict)
    kept: str = ""


def ask(plan: Plan, only: list[str], tell: Callable[[str], None]) -> tuple[list[Figure], list[str]]:
    """All figures of all peers, and the lines that show them."""
    names = only or [OURS, *sorted(f.parent.name for f in PEERS.glob("*/requirements.txt"))]
    found = {name: Found() for name in names}
    chance = random.Random(plan.seed)
    try:
        for number in range(plan.runs):
            for name in chance.sample(names, len(names)):
                if "" not in found[name].missing:
                    begun = time.monotonic()
                    _round(name, plan, found[name])
                    took = f"{time.monotonic() - begun:.0f} s"
                    tell(f"peers, round {number + 1}: {name} {took} {found[name].missing or ''}")
    except SystemExit as end:  # told to end: what was measured is told all the same
        tell(f"peers: {end}")
    return list(_figures(found)), list(_lines(found))


def _round(name: str, plan: Plan, found: Found) -> None:
    """Everything that one peer is asked in one round; after a failure it is started anew."""
    todo = [work for work in WORK if work.name not in found.missing]
    try:
        while todo:
            with running(name, plan.ranks) as peer:
                found.about = peer.ask("about", 10)
                while todo:
                    work = todo.pop(0)
                    try:
                        found.runs.setdefault(work.name, []).append(_one(peer, work, plan, found))
                    except NotThere as error:
                        found.missing[work.name] = str(error)
                    except PeerProblem as error:
                        found.missing[work.name] = str(error)
                        break
        if KEEP not in found.missing and KEEP not in found.runs:  # once: it is a matter of yes or no
            with running(name, plan.ranks) as peer:
                found.runs.setdefault(KEEP, []).append(_keep(peer, found))
    except venvs.InstallFailed as error:
        found.missing[""] = f"not installed: {error}"
    except (NotThere, PeerProblem) as error:
        found.missing[KEEP if found.runs else ""] = str(error)


def _one(peer: PeerHost, work: Work, plan: Plan, found: Found) -> float:
    goal_s = 0.3 if plan.quick else 1.0
    if work.first == work.largest:
        found.sizes[work.name] = work.first
    if work.name not in found.sizes:
        tasks = work.first
        peer.ask(work.ask, _LIMIT_S, tasks=tasks, **work.given)  # what starts with the first tasks
        before = 0.0
        while True:
            begun = time.perf_counter()
            peer.ask(work.ask, _LIMIT_S, tasks=tasks, **work.given)
            seconds = time.perf_counter() - begun
            # long enough, and longer with more tasks: not only the poll at the end, of a second with one peer
            grew = seconds > 1.5 * before if before else seconds > 3 * goal_s
            if (seconds > goal_s and grew) or tasks >= work.largest:
                break
            before, tasks = seconds, min(work.largest, 4 * tasks)
        found.sizes[work.name] = max(work.first, min(work.largest, round(tasks * max(goal_s, 3 * before) / seconds)))
    tasks = found.sizes[work.name]
    return work.figure(peer.ask(work.ask, _LIMIT_S, tasks=tasks, **work.given), tasks, plan.ranks)


def _keep(peer: PeerHost, found: Found) -> float:
    """Tasks of so many that end although the coordinator is killed after a tenth of them, percent."""
    with tempfile.TemporaryDirectory() as folder:
        program = peer.ask("about", 10)["pid"]
        pids, what = peer.ask("keep", _LIMIT_S, tasks=_KEEP_TASKS, folder=folder, seconds=_KEEP_S)
        _until_quiet(folder, _KEEP_TASKS // 10)
        peer.kill(pids)
        at_kill = len(os.listdir(folder))
        try:
            # a forked worker may hold the line open, so who is dead is not asked
            again = "nothing is left to start again" if program in pids else _started(peer)
        except (NotThere, PeerProblem) as error:
            again = str(error)
        _until_quiet(folder, _KEEP_TASKS)
        counts = [os.path.getsize(entry) for entry in os.scandir(folder)]
        twice = sum(count > 1 for count in counts)
        found.kept = (
            f"{len(counts)} of {_KEEP_TASKS} ended ({at_kill} before the kill, {twice} ran twice); "
            f"killed: {what}; {again}"
        )
        return 100 * len(counts) / _KEEP_TASKS


def _started(peer: PeerHost) -> str:
    peer.restart_postgres()
    return "started again: " + str(peer.ask("restart", _LIMIT_S))


def _until_quiet(folder: str, wanted: int) -> None:
    """Until so many tasks have ended, or none has for a while."""
    count, since = 0, time.monotonic()
    while count < wanted and time.monotonic() - since < _QUIET_S:
        now = len(os.listdir(folder))
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(0.02)


def _figures(found: dict[str, Found]) -> Iterator[Figure]:
    units = {work.name: (work.unit, work.most) for work in WORK} | {KEEP: ("% tasks", True)}
    for name, what in units.items():
        for peer, about in found.items():
            if about.runs.get(name):
                note = about.kept if name == KEEP else f"{about.sizes.get(name, 0)} tasks"
                yield Figure(
                    f"{name}: {peer}", tuple(about.runs[name]), *what, note=note, series=f"peers/{name}",
                    question=QUESTION, quiet=True,
                )  # fmt: skip


def _lines(found: dict[str, Found]) -> Iterator[str]:
    """One row a peer, one column a question; below, what each is and who keeps work."""
    columns = [*(work.name for work in WORK), KEEP]
    units = [*(work.unit for work in WORK), "% tasks"]
    yield f"{'median, min..max':20}" + "".join(f"{name:>25}" for name in columns)
    yield f"{'':20}" + "".join(f"{unit:>25}" for unit in units)
    for peer, about in found.items():
        if "" in about.missing:
            yield f"{peer:20} {about.missing['']}"
            continue
        yield f"{peer:20}" + "".join(f"{_cell(about, name):>25}" for name in columns)
    yield "chain and fan: * the client waits between, because a result cannot be an argument"
    for peer, about in found.items():
        yield f"{peer:20} {about.about.get('note', '')}"
        if about.kept:
            yield f"{'':20}   {about.kept}"
        for name, why in about.missing.items():
            if name:
                yield f"{'':20}   {name}: {why}"


def _cell(about: Found, name: str) -> str:
    if not about.runs.get(name):
        return "-"
    runs = about.runs[name]
    star = "*" if name.startswith(("chain", "fan ")) and not about.about["depends"] else ""
    return f"{_brief(statistics.median(runs))}{star} {_brief(min(runs))}..{_brief(max(runs))}"


def _brief(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k" if value >= 1e4 else short(value)
