"""Walltimes on a real cluster, scaled down: a loop that is longer than any allocation, and what their ends cost.

Slurm counts walltimes in minutes and looks at them every 30 s, so a short one is made by hand: the script is told the
second of its end (``SLURM_JOB_END_TIME``), and at that second the allocation is cancelled, which is what Slurm does at
a walltime: TERM to everything, KILL two seconds later. No signal comes before it: what starts late is stopped by
nothing but what was learned.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from slurm_site import Site, wait

from pyfi_hpc import Executor

pytestmark = pytest.mark.slurm

_CODE = '''
"""Functions of many lengths, and one that goes on."""

import time
import zlib
from pathlib import Path

import pyfi_task


def _nap(marks, number, seconds):
    Path(marks, f"{number}-{pyfi_task.current().attempt}").touch()
    time.sleep(seconds)
    return number


def short(marks, number, seconds):
    return _nap(marks, number, seconds)


def medium(marks, number, seconds):
    return _nap(marks, number, seconds)


def longer(marks, number, seconds):
    return _nap(marks, number, seconds)


def wild(marks, number, seconds):
    return _nap(marks, number, seconds)


def loop(steps, pause, state=None):
    step, total = state or (0, 0)
    while step < steps:
        total = zlib.crc32(b"%d" % step, total)
        step += 1
        time.sleep(pause)
        if pyfi_task.remaining() < 1.5:
            return pyfi_task.Continue((step, total))
    return total
'''


def _deploy(site: Site) -> None:
    folder = site.cluster.shared / "lengths"
    if not folder.exists():
        folder.mkdir()
        (folder / "lengths.py").write_text(_CODE)
        subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20)
    site.deploy(folder)


class _Allocations:
    """Allocations that end at a second; all of them are cancelled at last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._timers: list[threading.Timer] = []
        #: (Slurm's id, ranks, start, told end), UTC
        self.made: list[tuple[int, int, float, float]] = []

    def start(self, node: str, ranks: int, seconds: float) -> float:
        """One on this node; when it ends."""
        cluster, begun = self._site.cluster, time.time()
        end = int(begun + seconds)
        job = self._site.by_hand(
            "cpu.sbatch", "--nodes=1", f"--ntasks-per-node={ranks}", f"--nodelist={node}", "--time=5",
            f"--export=ALL,SLURM_JOB_END_TIME={end}", "--signal=B:CONT@1", f"--output={cluster.shared}/pyfi-%j.out",
        )  # fmt: skip
        self.made.append((job, ranks, begun, float(end)))
        timer = threading.Timer(end - time.time(), lambda: cluster.run(["scancel", str(job)], check=False))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)
        return float(end)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for job, *_ in self.made:
            self._site.cluster.run(["scancel", "--quiet", str(job)], check=False)


@contextmanager
def _allocations(site: Site) -> Iterator[_Allocations]:
    made = _Allocations(site)
    try:
        yield made
    finally:
        made.close()


def _answer(steps: int) -> int:
    import zlib

    total = 0
    for step in range(steps):
        total = zlib.crc32(b"%d" % step, total)
    return total


def test_a_loop_of_a_minute_survives_allocations_of_half_a_minute(site: Site) -> None:
    """60 s of steps, one allocation of 30 s after the other, none charged: the answer is that of one run."""
    _deploy(site)
    steps, pause = 600, 0.1
    with _allocations(site) as allocations:
        future = Executor().submit("lengths.loop", steps, pause)
        while not future.done():
            assert len(allocations.made) < 6, site.said(allocations.made[-1][0])
            node = site.cluster.nodes[len(allocations.made) % 2]
            end = allocations.start(node, 1, 30.0)
            wait(lambda end=end: future.done() or time.time() > end + 1.0, 60)  # type: ignore[misc]
        assert future.result(5) == _answer(steps)
        attempts = site.attempts(site.last_job(), 0)
        ends = [(one["outcome"], one["node"].split("/")[1]) for one in attempts]
        jobs = [str(job) for job, *_ in allocations.made]
        assert len(jobs) >= 3, ends
        assert ends == [("CONTINUED", job) for job in jobs[:-1]] + [("COMPLETED", jobs[-1])]


#: function, calls, seconds of one
_MIX: list[tuple[str, int, Any]] = [
    ("lengths.short", 240, lambda chance: chance.uniform(0.1, 0.8)),
    ("lengths.medium", 60, lambda chance: chance.uniform(2.0, 4.0)),
    ("lengths.longer", 12, lambda chance: chance.uniform(7.0, 11.0)),
    ("lengths.wild", 40, lambda chance: min(15.0, chance.lognormvariate(0.0, 1.1))),
]


def test_less_than_two_percent_are_lost_to_walltimes(site: Site) -> None:
    """352 calls of four functions that say nothing of their lengths, on allocations of 45 s, two at a time."""
    _deploy(site)
    marks, chance = site.marks("mixed"), random.Random(7)
    with _allocations(site) as allocations:
        executor = Executor()
        results: list[Any] = []
        number = 0
        for function, count, draw in _MIX:
            seconds = [draw(chance) for _ in range(count)]
            numbers = range(number, number + count)
            number += count
            results.append(executor.map(function, [str(marks)] * count, numbers, seconds, timeout=240))
        done = threading.Event()
        reader = threading.Thread(target=lambda: ([list(part) for part in results], done.set()), daemon=True)
        reader.start()
        ends = dict.fromkeys(site.cluster.nodes[:2], 0.0)
        while not done.is_set():
            assert len(allocations.made) < 12, site.said(allocations.made[-1][0])
            for at, node in enumerate(ends):
                if time.time() > ends[node] + 1.0 and (at == 0 or len(allocations.made) > 0):
                    ends[node] = allocations.start(node, 4, 45.0)
                    done.wait(15.0 if len(allocations.made) == 1 else 0.0)  # the second ends later than the first
            done.wait(0.2)
        finished = time.time()
        granted = sum(ranks * (min(end, finished) - begun) for _, ranks, begun, end in allocations.made)
        lost, cut = _lost(site, marks)
        print(f"{lost:.1f} of {granted:.0f} rank-seconds lost, {cut} tasks cut, {len(allocations.made)} allocations")
        assert len(allocations.made) >= 4
        assert lost < 0.02 * granted, (lost, granted, cut)


def _lost(site: Site, marks: Path) -> tuple[float, int]:
    """Rank-seconds of attempts that the end of an allocation cut off, and how many they were."""
    seconds, cut = 0.0, 0
    for row in site.ask("jobs", {"limit": len(_MIX)})["rows"]:
        for call in site.calls(row["job"]):
            for one in site.attempts(row["job"], call["index"]) if call["attempt"] > 1 else ():
                if one["outcome"] == "WALLTIME":
                    number = sum(n for name, n, _ in _before(row["name"])) + call["index"]
                    seconds += max(0.0, one["ended"] - (marks / f"{number}-{one['attempt']}").stat().st_mtime)
                    cut += 1
    return seconds, cut


def _before(name: str) -> list[tuple[str, int, Any]]:
    return _MIX[: next(at for at, (function, _, _) in enumerate(_MIX) if function == name)]
