"""Permits: a task either runs once or is handed back, whatever the moment at which it is asked for. Real runners."""

from __future__ import annotations

import fcntl
import random
import time
from collections import Counter
from typing import Any

import pytest
from rank_rig import Rig, rig, unpack

from pyfi_hpc.model.messages import Done, Kill
from pyfi_hpc.model.states import Cause

__all__ = ["rig"]

#: requests of one test, and bundles that a rank has at once
ASKED, OPEN_MAX = 3000, 3


class Line:
    """Bundles of tasks that note their numbers, and what the rank says of each task."""

    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self._rig, self._chance = rig, chance
        self.file = rig.folder / "ran"
        #: bundle -> tasks of it without an outcome
        self.open: dict[int, int] = {}
        #: (bundle, offset) -> cause
        self.ended: dict[tuple[int, int], Cause] = {}
        self.given = 0

    def give(self, count: int, seconds: tuple[float, ...], **more: Any) -> None:
        number = self._rig.bundles + 1
        calls = [(str(self.file), 1000 * number + 10 + k, self._chance.choice(seconds)) for k in range(count)]
        self.open[number] = count
        self.given += count
        assert self._rig.run("note", *calls, **more) == number

    def ask(self, cause: Cause = Cause.RELEASED) -> None:
        """The whole of a bundle, its end or a part from its middle."""
        number = self._chance.choice(list(self.open))
        lo = self._chance.choice([0, 10, 10 + self._chance.randrange(40)])
        count = self._chance.choice([-1, 1, 20, 512]) if lo else -1
        self._rig.tell(Kill(bundle=number, lo=lo, count=count, cause=cause))
        self.hear()

    def hear(self, wait_s: float = 0.0) -> None:
        """What the rank has said since."""
        self._rig.poll.poll(1000 * wait_s)
        self._rig.turn(self._rig.runners.receive())
        said, self._rig.sent[:] = list(self._rig.sent), []
        for message in said:
            if not isinstance(message, Done) or message.bundle not in self.open:
                continue
            for task in unpack(message):
                key = (message.bundle, task.offset)
                assert key not in self.ended, "one outcome for each"
                self.ended[key] = task.cause
                assert task.cause or task.value == 1000 * key[0] + key[1], "and it is its own"
                self.open[message.bundle] -= 1
            if not self.open[message.bundle]:
                del self.open[message.bundle]

    def finish(self, seconds: float = 60.0) -> Counter[Cause]:
        """Wait for all outcomes; what ran is what was not handed back, and once."""
        until = time.monotonic() + seconds
        while self.open:
            assert time.monotonic() < until, f"no outcome for {self.open}"
            self.hear(0.02)
        ran = Counter(map(int, self.file.read_text().split()))
        assert len(self.ended) == self.given
        twice = {k for k, n in ran.items() if n > 1}
        assert not twice, f"{len(twice)} tasks ran more than once: {sorted(twice)[:9]}"
        back = {1000 * b + o for (b, o), cause in self.ended.items() if cause is Cause.RELEASED}
        assert not back & set(ran), f"{len(back & set(ran))} tasks were handed back and ran"
        whole = {1000 * b + o for (b, o), cause in self.ended.items() if cause is Cause.NONE}
        assert whole <= set(ran)
        return Counter(self.ended.values())


@pytest.mark.timeout(240)
def test_a_task_runs_or_is_handed_back(rig: Rig) -> None:
    """Thousands of requests at random moments for short tasks that wait, and what waits behind them."""
    chance = random.Random(5)
    line = Line(rig, chance)
    rig.one("add", 1)
    asked = 0
    while asked < ASKED:
        while len(line.open) < OPEN_MAX:
            line.give(chance.choice([1, 5, 40, 40, 512]), chance.choice([(0.0,), (0.0, 0.0002), (0.001,)]))
        for _ in range(chance.randrange(4)):
            line.hear(chance.choice([0.0, 0.0005, 0.001]))
        if line.open:
            line.ask()
            asked += 1
    ends = line.finish()
    print(ends)
    assert set(ends) == {Cause.NONE, Cause.RELEASED}
    assert min(ends.values()) > ASKED


@pytest.mark.timeout(120)
def test_an_end_by_signal_hits_one_task(rig: Rig) -> None:
    """Time limits that are just reached, cancels and requests at random moments: no task begins twice."""
    chance = random.Random(6)
    line = Line(rig, chance)
    rig.one("add", 1)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        while len(line.open) < OPEN_MAX:
            line.give(6, (0.02, 0.0295, 0.03, 0.0305), limit=0.03)
        line.hear(chance.random() * 0.03)
        if line.open and chance.random() < 0.3:
            line.ask(chance.choice([Cause.RELEASED, Cause.RELEASED, Cause.CANCELLED]))
    ends = line.finish()
    print(ends)
    assert set(ends) == {Cause.NONE, Cause.RELEASED, Cause.CANCELLED, Cause.TIME_LIMIT}


def test_a_full_pipe_holds_nothing_up(rig: Rig) -> None:
    """A long task runs, behind it more than the pipes take: all is asked back, and comes back before it ends."""
    line = Line(rig, random.Random(7))
    rig.one("add", 1)
    line.give(1, (1.5,))
    rig.spin_until(line.file.exists)
    (process,) = rig.runners._runners.values()
    fcntl.fcntl(process.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    line.give(512, (0.0,))
    line.give(3, (0.0,))
    begun = time.monotonic()
    for number in list(line.open):
        rig.tell(Kill(bundle=number, lo=0, count=-1, cause=Cause.RELEASED))
    while len(line.open) > 1:
        line.hear(0.01)
    assert time.monotonic() - begun < 0.5
    line.give(20, (0.0,))
    assert line.finish() == {Cause.NONE: 21, Cause.RELEASED: 515}


def test_copies_of_a_runner_take_no_permits(rig: Rig) -> None:
    """A function forks, and its copy ends later than it: what follows runs once, and all of it."""
    line = Line(rig, random.Random(8))
    assert rig.one("fork_and_stay", 0.2).value == "parent"
    for _ in range(20):
        line.give(200, (0.0001,))
    assert line.finish() == {Cause.NONE: 4000}


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_a_function_that_closes_what_is_the_runners(rig: Rig, which: int) -> None:
    """One of its descriptors: the task that did it, or the next, ends and says why; others go on in another runner."""
    tasks = [rig.one("close_high", which), *rig.results(rig.run("add", 1, 2, 3))]
    failed = [task for task in tasks if task.cause]
    assert len(failed) <= 1
    for task in failed:
        assert task.cause is Cause.CRASH
        assert "did the function close file descriptors" in task.failure.traceback_text
    assert [task.value for task in tasks[2:]] == [3, 4]
