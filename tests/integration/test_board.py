"""The board between a rank and its runner: answers outlive the runner, fill it, are scribbled over. Real runners."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rank_rig import Rig, rig
from test_permits import Line

from pyfi_hpc.adapters import runner_process
from pyfi_hpc.model.messages import Kill
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner import board
from pyfi_hpc.runner.board import ANSWERS, AT, LENGTH_MAX, RESULT_BYTES, SIZE, Board, Gatekeeper, Scribbled

__all__ = ["rig"]

FUNCTIONS = """
import ctypes, os, signal, subprocess, time
def die_at(path, i, n, how):
    if i < n: return i
    open(path, "w").close()
    if how == "exit": os._exit(5)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)
def blob(n, k, speak=""):
    if speak: print(speak)
    return bytes([k % 251]) * n
def scribble(byte):
    for line in open("/proc/self/maps"):
        if "pyfi-board" in line:
            lo, hi = (int(x, 16) for x in line.split()[0].split("-"))
            ctypes.memset(lo, byte, hi - lo)
def write_everywhere():
    for fd in os.listdir("/proc/self/fd"):
        link = "/proc/self/fd/" + fd
        if os.path.lexists(link) and "pyfi-board" in os.readlink(link):
            os.write(int(fd), b"rubbish")
            return "there was a descriptor of it"
def place():
    shell = subprocess.run("echo $PYFI_TASK", shell=True, capture_output=True, text=True).stdout.strip()
    return os.environ["PYFI_TASK"], shell
def clear(): os.environ.clear(); os.environ["PATH"] = "/bin:/usr/bin"
def mine(): os.environ["PYFI_TASK"] = "mine"
"""


@pytest.fixture(autouse=True)
def _functions(rig: Rig) -> Iterator[None]:
    (rig.folder / "work" / "boards.py").write_text(FUNCTIONS)
    return


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_answers_of_a_dead_runner_are_read(rig: Rig, how: str) -> None:
    """Three hundred tasks end and the next kills the process while the rank looks away: a crash, and nothing again."""
    dead = rig.folder / "dead"
    rig.one("place", module="boards")
    n = rig.run("die_at", *[(str(dead), i, 300, how) for i in range(303)], module="boards")
    until = time.monotonic() + 20
    while not dead.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    tasks = rig.results(n)
    assert [task.value for task in tasks[:300]] == list(range(300))
    assert [task.cause for task in tasks[300:]] == [Cause.CRASH] * 3


def test_more_answers_than_places(rig: Rig) -> None:
    """Twice as many tasks as the board has places, and a rank that looks only when it is full."""
    count = 2 * ANSWERS + 100
    n = rig.run("add", *[(i, i) for i in range(count)])
    rig.spin_until(lambda: bool(rig.machine._runners) and all(r.ready for r in rig.machine._runners.values()))
    time.sleep(0.3)
    assert [task.value for task in rig.results(n)] == [2 * i for i in range(count)]


def test_results_of_all_sizes(rig: Rig) -> None:
    """Results that fill the ring, do not fit before its end, or at all, and tasks that print: each gets its own."""
    chance = random.Random(3)
    sizes = [chance.choice([0, 1, 900, LENGTH_MAX - 4, LENGTH_MAX, 3 * RESULT_BYTES]) for _ in range(400)]
    calls = [(size, k, chance.choice(["", "", "", "hello"])) for k, size in enumerate(sizes)]
    tasks = rig.results(rig.run("blob", *calls, module="boards"))
    for task, (size, k, spoken) in zip(tasks, calls, strict=True):
        assert task.value == bytes([k % 251]) * size
        assert task.out.decode().strip() == spoken


@pytest.mark.parametrize("byte", [0xFF, 0x01, 0x00])
def test_a_scribbled_board(rig: Rig, byte: int) -> None:
    """A function writes over the board: its runner is ended and it crashes; the next runner serves."""
    rig.one("place", module="boards")
    n = rig.run("scribble", byte, module="boards", limit=2.0)
    (task,) = rig.results(n)
    assert task.cause is Cause.CRASH
    assert "did the function write" in task.failure.message
    assert rig.one("add", 1).value == 2


def test_no_descriptor_of_the_board_is_left_in_a_runner(rig: Rig) -> None:
    """A function that writes to all that is open cannot spoil results that the rank has not taken."""
    assert rig.one("write_everywhere", module="boards").value is None


def test_a_frozen_runner(rig: Rig) -> None:
    """It stops between or in its tasks: what it has not begun is handed back at once, the rest ends when it goes on."""
    line = Line(rig, random.Random(9))
    rig.one("add", 1)
    for _ in range(30):
        line.give(200, (0.0, 0.0001))
        rig.spin(0.005)
        (process,) = rig.runners._runners.values()
        os.kill(process.pid, signal.SIGSTOP)
        for number in list(line.open):
            rig.tell(Kill(bundle=number, lo=0, count=-1, cause=Cause.RELEASED))
        line.hear()
        line.hear()
        assert sum(line.open.values()) <= 200
        os.kill(process.pid, signal.SIGCONT)
        line.give(1, (0.0,))
    assert set(line.finish()) <= {Cause.NONE, Cause.RELEASED}


def test_a_kernel_without_the_barrier(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side has the system call: both make barriers of their own, and a task runs or is handed back."""
    runner = tmp_path / "runner"
    shutil.copytree(Path(board.__file__).parent, runner)
    text = (runner / "board.py").read_text()
    (runner / "board.py").write_text(text.replace('"x86_64": 324, "aarch64": 283', '"other": 0'))
    monkeypatch.setattr(runner_process, "CHILD", runner / "child.py")
    monkeypatch.setattr(board, "_number", type(board._number)(-1))
    chance = random.Random(11)
    line = Line(rig, chance)
    rig.one("add", 1)
    for _ in range(300):
        while len(line.open) < 2:
            line.give(chance.choice([1, 40, 200]), (0.0, 0.0002))
        line.hear(chance.choice([0.0, 0.001]))
        if line.open:
            line.ask()
    assert set(line.finish()) == {Cause.NONE, Cause.RELEASED}


def test_the_tasks_name_in_the_environment(rig: Rig) -> None:
    """os.environ and programs see it, in each task of a run, also after a function has emptied or set it."""
    seen = [rig.results(rig.run("place", (), (), (), module="boards")) for _ in range(1)][0]
    assert [task.value for task in seen] == [(f"9.{i}", f"9.{i}") for i in (20, 21, 22)]
    for spoil in ("clear", "mine"):
        rig.one(spoil, module="boards")
        assert rig.one("place", module="boards").value == ("9.20", "9.20")


def _write(fd: int, seconds: float) -> None:
    words = Board(fd).words
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(1000):
            words[AT] = 0
            words[AT] = (1 << 64) - 1


def test_nobody_sees_half_of_a_word() -> None:
    """A process writes all bits and none in turn, another reads."""
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    words = Board(fd).words
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(fd, 1.0))
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.update([words[AT] for _ in range(10_000)])
    writer.join()
    os.close(fd)
    assert seen <= {0, (1 << 64) - 1}


def _gatekeeper() -> tuple[Board, Gatekeeper]:
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    shared = Board(fd)
    os.close(fd)
    return shared, Gatekeeper(shared)


def test_permits_come_back_but_for_what_has_begun() -> None:
    """Ten permits; three tasks answered and a fourth begun: six come back, and the gate is closed behind the four."""
    shared, gate = _gatekeeper()
    gate.give(10, look_first=False)
    shared.words[AT] = 2 * 3 + 1
    assert gate.take_back() == 6
    assert shared.words[board.GATE] & board.ALLOWED == 4
    gate.give(2, look_first=True)
    assert shared.words[board.GATE] & board.ALLOWED == 6
    assert shared.words[board.GATE] >> board.LOOK_SHIFT == 1


@pytest.mark.parametrize("at", [2 * 11, 2 * (ANSWERS + 1), (1 << 64) - 1])
def test_more_answers_than_permits_are_not_believed(at: int) -> None:
    """Ten permits and a word that says more answers, or impossibly many."""
    shared, gate = _gatekeeper()
    gate.give(10, look_first=False)
    shared.words[AT] = at
    with pytest.raises(Scribbled):
        gate.blocks()


def test_lengths_that_cannot_be_are_not_believed() -> None:
    """A result longer than the ring."""
    shared, gate = _gatekeeper()
    gate.give(3, look_first=False)
    shared.lengths[0] = shared.lengths[1] = RESULT_BYTES
    shared.words[AT] = 4
    with pytest.raises(Scribbled):
        gate.blocks()


