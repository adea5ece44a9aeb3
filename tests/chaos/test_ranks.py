"""C: ranks, runners and agents die, freeze, are cut off or get too little, in the middle of a load."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faults import little_memory
from instance_fixture import Instance, gone, until
from invariants import Stopwatch
from load import LOST, WAIT_S, Load, heal

from pyfi_hpc.errors import TaskLost, TaskTimeout


def test_c1_a_rank_is_killed(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL to one rank: only what it had runs again; the agent replaces it and the node goes on."""
    agent = arena.pid("agent")
    load = Load(arena, tmp_path)
    os.kill(arena.ranks()[0], signal.SIGKILL)
    load.ends_well(again_max=LOST)
    heal(arena, 2)
    assert arena.pid("agent") == agent


def test_c1_all_ranks_are_killed(arena: Instance, tmp_path: Path) -> None:
    """The whole MPI step dies, launcher first: ranks are replaced, what they had runs again."""
    load = Load(arena, tmp_path)
    for pid in arena.ranks():
        os.kill(pid, signal.SIGKILL)
    load.ends_well(again_max=2 * LOST)
    heal(arena, 2)


def test_c2_a_rank_hangs(arena: Instance, tmp_path: Path) -> None:
    """SIGSTOP to a rank for good: silence, then it is ended and replaced; what it had runs again."""
    load = Load(arena, tmp_path)
    rank = arena.ranks()[0]
    os.kill(rank, signal.SIGSTOP)
    load.ends_well(again_max=LOST)
    until(lambda: gone(rank), 15.0, "the frozen rank was ended")
    heal(arena, 2)


def test_c3_the_agent_is_killed(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL to the agent: lease over, its ranks and runners gone, another agent finishes the work."""
    load = Load(arena, tmp_path)
    left = arena.ranks() + arena.runners()
    watch = Stopwatch()
    arena.kill(arena.pid("agent"))
    until(lambda: all(map(gone, left)), 10.0, "no orphan of the dead agent is left")
    watch.tell("orphans ended", 5)
    arena.start_agent(joined=False)
    load.ends_well(again_max=2 * LOST)
    watch.tell("work regranted and done", 8)


def test_c5_a_task_takes_all_memory(arena: Instance, tmp_path: Path) -> None:
    """A limit on the node's memory: the kernel kills the one who took it, three times, then it is FAILED with why."""
    arena.kill(arena.pid("agent"))
    until(lambda: not arena.nodes(), 15.0, "the agent is forgotten")
    with little_memory(600 << 20) as inside:
        with inside():
            arena.start_agent()
        load = Load(arena, tmp_path)
        error = arena.executor().submit("trouble.fill_memory").exception(WAIT_S)
        assert isinstance(error, TaskLost) and "out of memory" in str(error), repr(error)
        load.ends_well(again_max=12)
        arena.kill(arena.pid("agent"))
        until(lambda: not arena.ranks() and not arena.runners(), 15.0, "its ranks have ended")


def test_c6_functions_end_their_process(arena: Instance, tmp_path: Path) -> None:
    """exit code 0, a segmentation fault, a signal: each costs its own task only, and the runner is replaced."""
    load = Load(arena, tmp_path)
    ex = arena.executor()
    bad = [ex.submit("trouble.exit_now", 0), ex.submit("trouble.segfault"), ex.submit("trouble.die_if", 1, 1)]
    errors = [future.exception(WAIT_S) for future in bad]
    assert [type(error) for error in errors] == [TaskLost] * 3, errors
    assert ex.submit("trouble.die_once", str(tmp_path)).result(WAIT_S) == "lived"
    load.ends_well(again_max=0)


def test_c7_a_poison_task(arena: Instance, tmp_path: Path) -> None:
    """A call that kills its process each time is given up after three attempts; the others of its map finish."""
    load = Load(arena, tmp_path)
    futures = [arena.executor().submit("trouble.die_if", x, 5) for x in range(20)]
    error = futures[5].exception(WAIT_S)
    assert isinstance(error, TaskLost) and "3 times" in str(error), repr(error)
    assert [f.result(WAIT_S) for x, f in enumerate(futures) if x != 5] == [x for x in range(20) if x != 5]
    load.ends_well(again_max=0)


def test_c8_a_straggler(arena: Instance, tmp_path: Path) -> None:
    """One rank's runner gets a tenth of its time: what lies in line behind it goes to the other; little waits."""
    Load(arena, _folder(tmp_path, "warm")).ends_well(again_max=0)
    runner = arena.runners()[0]
    stop = threading.Event()

    def slow() -> None:
        while not stop.is_set() and not gone(runner):
            for number, seconds in ((signal.SIGSTOP, 0.18), (signal.SIGCONT, 0.02)):
                with suppress(ProcessLookupError):
                    os.kill(runner, number)
                time.sleep(seconds)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        load = Load(arena, tmp_path, count=300)
        load.reached(300)
    finally:
        stop.set()
        thread.join()
    load.ends_well(again_max=0)


def test_c9_too_much_is_said(arena: Instance, tmp_path: Path) -> None:
    """A result over the limit and a gigabyte of output: refused with the reason, or shortened; the load goes on."""
    load = Load(arena, tmp_path)
    ex = arena.executor()
    big, loud = ex.submit("trouble.return_big", 1 << 30), ex.submit("trouble.flood", 1 << 30)
    assert "over the limit" in str(big.exception(WAIT_S))
    assert loud.result(WAIT_S) == 1 << 30
    load.ends_well(again_max=0)


@pytest.mark.parametrize("function", ["stubborn", "hold_gil"])
def test_functions_that_do_not_end(arena: Instance, tmp_path: Path, function: str) -> None:
    """Ignoring SIGTERM, holding the GIL: ended at the time limit and the grace, heartbeats go on, the rank survives."""
    ranks = sorted(arena.ranks())
    load = Load(arena, tmp_path)
    late = arena.executor().with_options(time_limit=1.0).submit(f"trouble.{function}", 600)
    assert isinstance(late.exception(WAIT_S), TaskTimeout)
    load.ends_well(again_max=0)
    assert sorted(arena.ranks()) == ranks


def test_functions_that_spoil_their_process(arena: Instance, tmp_path: Path) -> None:
    """All descriptors closed, rubbish in the runner's pipe, a child that outlives the call: ranks live, it ends."""
    ranks = sorted(arena.ranks())
    load = Load(arena, tmp_path)
    ex = arena.executor()
    assert isinstance(ex.submit("trouble.close_all").exception(WAIT_S), TaskLost)
    assert isinstance(ex.submit("trouble.scribble").exception(WAIT_S), TaskLost)
    child = ex.submit("trouble.leave_grandchild", 600, True).result(WAIT_S)
    # rubbish is not seen at once: of calls that begin behind it in that process until then the ends are not believed
    load.ends_well(again_max=LOST)
    assert sorted(arena.ranks()) == ranks
    for pid in arena.runners():
        os.kill(pid, signal.SIGKILL)
    until(lambda: gone(child), 10.0, "the child ends with its runner")


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name
