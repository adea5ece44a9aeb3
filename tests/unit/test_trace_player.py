"""The trace player: small traces whose schedules are known, the shipping broker on one of them, and what is read."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pyfi_hpc.errors import UsageError

PERF = Path(__file__).resolve().parents[2] / "perf"


@pytest.fixture(scope="module")
def player() -> Iterator[ModuleType]:
    """perf/ is a folder of programs: they find each other where they lie."""
    sys.path.insert(0, str(PERF))
    try:
        yield importlib.import_module("trace_player")
    finally:
        sys.path.remove(str(PERF))


def _work(player: ModuleType, *tasks: tuple[float, float, int] | tuple[float, float, int, float], owner: str = "a"):
    """(arrival, seconds, width, estimate)."""
    made = [player.Task(t[0], t[1], owner, t[2], 0, t[3] if len(t) > 3 else t[1]) for t in tasks]
    return player.Workload("made", tuple(made))


def _starts(player: ModuleType, name: str, work: object, ranks: int) -> list[float]:
    found: list[float] = player.schedulers(0)[name](work, ranks)
    return found


def test_easy_lets_pass_who_delays_nobody_and_fifo_does_not(player: ModuleType) -> None:
    """Four ranks: a task holds three for 10 s, one of four waits for it. Of two that fit on the rank that is left, one
    ends before and passes; the other would delay the first, and waits."""
    work = _work(player, (0, 10, 3), (1, 5, 4), (2, 8, 1), (3, 8, 1), (4, 6, 1))
    assert _starts(player, "fifo", work, 4) == [0, 10, 15, 15, 15]
    assert _starts(player, "easy", work, 4) == [0, 10, 2, 15, 15]


def test_easy_goes_by_estimates_and_by_ranks_that_are_left_over(player: ModuleType) -> None:
    """A short task with a long estimate may pass only where a rank is left over when the first one starts."""
    blocked = _work(player, (0, 10, 3), (1, 5, 4), (2, 2, 1, 100.0))
    assert _starts(player, "easy", blocked, 4) == [0, 10, 15]
    left_over = _work(player, (0, 10, 3), (1, 5, 3), (2, 2, 1, 100.0))
    assert _starts(player, "easy", left_over, 4) == [0, 10, 2]


def test_fifo_without_width_is_a_line_for_all_ranks(player: ModuleType) -> None:
    """Two ranks, five tasks, one of them long: each takes the next."""
    work = _work(player, (0, 4, 1), (0, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1, 1))
    for name in ("fifo", "easy"):
        assert _starts(player, name, work, 2) == [0, 0, 1, 2, 3]
    assert sorted(_starts(player, "random", work, 2))[0] == 0


def test_scores_of_a_known_schedule(player: ModuleType) -> None:
    """Two ranks, 8 rank-seconds in 5 s; what comes late bounds the makespan from below."""
    work = _work(player, (0, 4, 1), (0, 2, 1), (3, 2, 1))
    found = player.score(work, [0, 0, 3], 2)
    assert (found.makespan_s, found.utilisation, found.over_bound) == (5, 0.8, 1.0)
    assert (found.mean_wait_s, found.p95_wait_s) == (0, 0)
    assert math.isnan(found.share_error)
    late = player.score(work, [0, 4, 6], 2)
    assert (late.makespan_s, late.over_bound, late.p95_wait_s) == (8, 1.6, 4)
    assert player.bound_s(_work(player, (0, 1, 1), (10, 3, 2), (10, 3, 2)).tasks, 2) == 16


def test_the_share_error_is_what_somebody_got_too_much(player: ModuleType) -> None:
    """One rank. Turn by turn equal weights get what they should; all of one owner first is half too much."""
    tasks = [player.Task(0.0, 1.0, owner) for _ in range(100) for owner in "ab"]
    work = player.Workload("two", tuple(tasks))
    turns = [float(place) for place in range(200)]
    assert player.share_error(work, turns) < 0.02
    first = [float(place // 2 + 100 * (place % 2)) for place in range(200)]
    assert player.share_error(work, first) == pytest.approx(0.5, abs=0.01)
    heavy = player.Workload("two", tuple(tasks), (("b", 3.0),))
    assert player.share_error(heavy, turns) == pytest.approx(0.25, abs=0.02)


def test_ours_plays_a_trace(player: ModuleType) -> None:
    """Two ranks and the shipping broker: each task starts when a rank is free, some milliseconds late; a priority goes
    first."""
    tasks = [player.Task(0.0, 1.0) for _ in range(4)] + [player.Task(0.5, 1.0, "b", priority=1)]
    starts = player.ours(player.Workload("small", tuple(tasks)), 2, 0)
    assert sorted(starts[:2]) == pytest.approx([0, 0], abs=0.05)
    assert starts[4] <= 2.1  # a task of the other's is at hand already
    assert max(starts) + 1.0 == pytest.approx(3.0, abs=0.1)


def test_ours_plays_gangs(player: ModuleType) -> None:
    """Four ranks: one of four ranks waits for the one of three, and none starts before all of its ranks are free."""
    work = _work(player, (0, 2, 3), (0.5, 1, 4), (3.2, 1, 2))
    assert player.ours(work, 4, 0) == pytest.approx([0, 2, 3.2], abs=0.1)
    two_nodes = _work(player, (0, 1, 32), (0.5, 1, 20))
    assert player.ours(two_nodes, 32, 0) == pytest.approx([0, 1], abs=0.1)


def test_ours_shares_where_fifo_does_not(player: ModuleType) -> None:
    """Three owners with enough to do, one of twice the weight: within a tenth of what they should get, not by FIFO."""
    work = player.workloads.backlog(3, 8, 1_500)
    error = player.share_error(work, player.ours(work, 8, 3))
    assert error < 0.1 < player.share_error(work, _starts(player, "fifo", work, 8))


def test_shapes_are_made_by_their_seed(player: ModuleType) -> None:
    """The same seed gives the same tasks, another one others; all wait for their time, and only gangs are wide."""
    for name, shape in player.workloads.SHAPES.items():
        work = shape(5, 16, 200)
        assert work == shape(5, 16, 200) != shape(6, 16, 200)
        assert len(work.tasks) == 200 and all(task.at >= 0 < task.seconds <= task.estimate_s for task in work.tasks)
        assert (max(task.width for task in work.tasks) > 1) == (name == "gangs")


def test_logs_in_the_standard_format_are_read(player: ModuleType, tmp_path: Path) -> None:
    """Comments and what never ran are left out, unknown sizes are what was asked for; a bad line is named."""
    work = player.workloads.read_swf(PERF / "sample.swf")
    assert len(work.tasks) == 7
    assert [(t.at, t.seconds, t.owner, t.width, t.estimate_s) for t in work.tasks[:2]] == [
        (0, 600, "u1", 8, 900), (10, 300, "u2", 8, 300)
    ]  # fmt: skip
    assert [(t.width, t.estimate_s) for t in work.tasks if t.at == 45] == [(2, 250)]
    assert len(work.narrow().tasks) == sum(task.width for task in work.tasks)
    assert work.faster(10).work == pytest.approx(work.work / 10)
    bad = tmp_path / "bad.swf"
    bad.write_text("; fine\n1 2 three\n")
    with pytest.raises(UsageError) as told:
        player.workloads.read_swf(bad)
    assert "line 2" in told.value.where
    with pytest.raises(UsageError, match="cannot read"):
        player.workloads.read_swf(tmp_path / "none.swf")


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    """perf/trace on the sample: a line for each scheduler; an error is a sentence and exit code 2."""
    environment = os.environ | {"PYFI_PYTHON": sys.executable, "PYTHONPATH": str(PERF.parent)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PERF / "trace", *words], env=environment, capture_output=True, text=True, timeout=60)

    done = run("--swf", str(PERF / "sample.swf"), "--ranks", "16", "--runs", "1", "--speed", "50")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["pyfi", "fifo", "random", "easy"]
    done = run("--swf", str(PERF / "sample.swf"), "--ranks", "16", "--runs", "1", "--narrow", "--speed", "100")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["pyfi", "fifo", "random", "easy"]
    done = run("--swf", str(tmp_path / "none"))
    assert (done.returncode, "cannot read" in done.stderr) == (2, True)
