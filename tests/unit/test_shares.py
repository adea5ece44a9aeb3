"""Fair shares: the queue alone, and virtual time in which ranks take what it gives."""

from __future__ import annotations

import heapq
from typing import Any

import pytest

from pyfi_hpc.core.durations import Durations
from pyfi_hpc.core.jobs import Batch, Job
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import ReadyQueue
from pyfi_hpc.core.shares import Shares
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.records import BatchAdmitted, JobOpened


class Ranks:
    """So many ranks that take one task after the other, as long as each takes."""

    def __init__(self, count: int, weights: dict[tuple[str, str], float] | None = None, **limits: float) -> None:
        self.durations = Durations()
        self.shares = Shares(Limits(**limits), self.durations)  # type: ignore[arg-type]
        self.shares.weigh(weights or {})
        self.shares.ranks = count
        self.queue = ReadyQueue(self.shares)
        self.now = 0.0
        self.idle = count
        self.seconds: dict[int, float] = {}
        #: account -> rank-seconds
        self.got: dict[tuple[str, str], float] = {}
        self.last: dict[int, float] = {}
        self._running: list[tuple[float, int, Grant, float]] = []
        self._node = Node("n", b"n", "1", "", 1, 1e9, 0.0)  # type: ignore[arg-type]
        self._made = 0

    def submit(
        self, count: int, seconds: float, project: str = "", owner: str = "ada", socket: int = 1, priority: int = 0
    ) -> int:
        """A job of tasks that take so long; its number."""
        self._made += 1
        opened = JobOpened(self._made, b"", owner, "", b"", 0, 0.0, project)  # type: ignore[arg-type]
        batch = Batch(Job(opened), BatchAdmitted(
            self._made, self._made, 0, 0, count, True, socket, 1, priority, 0, 0.0, b"", b"", b"",  # type: ignore[arg-type]
        ))  # fmt: skip
        batch.payload, batch.offsets = b"", offsets_of([b""] * count)
        self.seconds[self._made] = seconds
        self.queue.push(batch, 0, count)
        return self._made

    def run(self, until: float) -> None:
        while True:
            self._fill()
            if not self._running or self._running[0][0] > until:
                self.now = until
                self.shares.tell(until)
                return
            self.now, _, grant, seconds = heapq.heappop(self._running)
            self.shares.tell(self.now)
            grant.open = 0
            self.queue.ended(grant.batch, 1)
            self.queue.freed(grant, 1, seconds)
            self.durations.report(grant.batch.socket, seconds)
            key = grant.batch.job.project, grant.batch.job.owner
            self.got[key] = self.got.get(key, 0.0) + seconds
            self.last[grant.batch.job.id] = self.now
            self.idle += 1

    def _fill(self) -> None:
        while self.idle and (pick := self.queue.take("n", self.idle, 1 << 30, True)):  # type: ignore[arg-type]
            count = pick.hi - pick.lo
            pick.batch.states[pick.lo : pick.hi] = b"\2" * count
            self.idle -= count
            for _ in range(count):
                self._made += 1
                grant: Any = Grant(0, pick.batch, 0, 1, 1, self._node, bytearray(1), 1)  # type: ignore[arg-type]
                self.queue.started(grant)
                seconds = self.seconds[pick.batch.job.id]
                heapq.heappush(self._running, (self.now + seconds, self._made, grant, seconds))


@pytest.mark.parametrize(("one", "other"), [(1.0, 1.0), (0.02, 2.0), (0.3, 0.2)])
def test_ranks_are_shared_by_weight_however_long_tasks_are(one: float, other: float) -> None:
    """Two projects with enough to do, weights 3 and 1: rank-seconds are shared so, whatever a task takes."""
    ranks = Ranks(4, {("project", "bio"): 3.0})
    ranks.submit(200_000, one, "bio", socket=1)
    ranks.submit(200_000, other, "art", socket=2)
    ranks.run(100.0)
    total = sum(ranks.got.values())
    assert total > 390.0
    assert ranks.got["bio", "ada"] / total == pytest.approx(0.75, abs=0.02)


def test_a_project_is_shared_by_those_who_submit_to_it() -> None:
    """Three submitters in one project, one in another: half for each project, and in the first by their weights."""
    ranks = Ranks(6, {("user", "ada"): 2.0})
    for owner in ("ada", "bob", "cy"):
        ranks.submit(100_000, 0.2, "bio", owner)
    ranks.submit(100_000, 0.2, "art", "dan")
    ranks.run(200.0)
    got = {owner: seconds / 1200.0 for (_, owner), seconds in ranks.got.items()}
    assert got == pytest.approx({"ada": 0.25, "bob": 0.125, "cy": 0.125, "dan": 0.5}, abs=0.01)


def test_a_hundred_short_tasks_behind_a_million() -> None:
    """A has a million queued and has been at it for a while; B's 100 are done in less than twice their solo time."""
    alone = Ranks(8)
    job = alone.submit(100, 0.05, owner="B")
    alone.run(60.0)
    shared = Ranks(8)
    shared.submit(1_000_000, 0.05, owner="A")
    shared.run(5.0)
    mine = shared.submit(100, 0.05, owner="B", socket=2)
    shared.run(10.0)
    assert shared.last[mine] - 5.0 < 2 * alone.last[job]


def test_what_was_used_is_forgotten_by_half_in_each_half_life() -> None:
    """A used 100 rank-seconds; ten half-lives later nothing of it counts, and B is not served first for them."""
    ranks = Ranks(1, share_half_life_s=100.0)
    ranks.submit(100, 1.0, "a")
    ranks.run(100.0)
    used = ranks.shares.projects["a"]
    before = ranks.shares.used_s(used)
    ranks.run(200.0)
    assert ranks.shares.used_s(used) == pytest.approx(before / 2)
    ranks.run(1200.0)
    ranks.submit(500, 0.2, "a")
    ranks.submit(500, 0.2, "b")
    ranks.run(1210.0)
    assert ranks.got["a", "ada"] - 100.0 == pytest.approx(ranks.got["b", "ada"], abs=0.5)


def test_the_unit_starts_again_and_nothing_changes() -> None:
    """Hundreds of half-lives: shares stay what they are, and no number grows without bound."""
    ranks = Ranks(1, share_half_life_s=0.1)
    ranks.submit(100_000, 0.01, "a")
    ranks.submit(100_000, 0.015, "b", socket=2)
    ranks.run(50.0)  # five hundred half-lives
    assert ranks.got["a", "ada"] == pytest.approx(ranks.got["b", "ada"], rel=0.05)
    assert all(0 <= share.level < 2.0**220 for share in ranks.shares.projects.values())


def test_who_comes_back_is_no_more_than_the_lead_ahead_or_behind() -> None:
    """A worked alone for long; B goes first for ``share_lead_s`` of all ranks and no longer. Nor is B held up for
    longer when it has worked alone for long and both come back."""
    ranks = Ranks(2, share_lead_s=10.0)
    ranks.submit(2_000, 0.5, "a")
    ranks.run(300.0)
    before = dict(ranks.got)
    ranks.submit(3_000, 0.5, "b")
    ranks.run(309.0)
    assert ranks.got["a", "ada"] - before["a", "ada"] <= 2.0
    ranks.run(360.0)
    # 20 rank-seconds first, then half of the rest
    assert ranks.got["b", "ada"] == pytest.approx(20.0 + 50.0, abs=3.0)
    ranks.run(1500.0)  # A has ended, B worked on alone, and has ended
    assert ranks.idle == 2
    used = ranks.got["b", "ada"]
    ranks.submit(2_000, 0.5, "a")
    ranks.submit(2_000, 0.5, "b")
    ranks.run(1550.0)
    assert ranks.got["b", "ada"] - used == pytest.approx(40.0, abs=3.0)


def test_short_calls_do_not_wait_behind_long_ones_of_the_same_account() -> None:
    """A hundred calls of 1 ms behind a thousand of 2 s on one rank: all of them are the next, not one by one."""
    ranks = Ranks(1)
    ranks.submit(1_000, 2.0)
    ranks.run(9.0)
    ranks.durations.report(2, 0.001)
    short = ranks.submit(100, 0.001, socket=2)
    ranks.run(20.0)
    assert ranks.last[short] < 10.2


def test_a_higher_priority_is_above_all_shares() -> None:
    """A has used all, and its task of a higher priority still goes before what B has."""
    ranks = Ranks(1)
    ranks.submit(100, 1.0, "a")
    ranks.run(50.5)
    ranks.submit(100, 1.0, "b")
    high = ranks.submit(1, 1.0, "a", priority=1)
    ranks.run(60.0)
    assert ranks.last[high] == 52.0


def test_made_up_names_do_not_fill_the_memory() -> None:
    """Five thousand projects with one short task each are forgotten when they have nothing to do."""
    ranks = Ranks(4)
    for number in range(5_000):
        ranks.submit(1, 0.001, f"p{number}")
        ranks.run(ranks.now + 0.01)
    assert len(ranks.shares.projects) <= 2_100
