"""C: ranks, runners and agents die, freeze, are cut off or get too little, in the middle of a load."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from instance_fixture import Instance, gone, until
from invariants import Stopwatch
from load import Load, heal


def test_c1_a_rank_is_killed(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL to one rank: only its task runs again; the agent replaces it and the node goes on."""
    agent = arena.pid("agent")
    load = Load(arena, tmp_path)
    os.kill(arena.ranks()[0], signal.SIGKILL)
    load.ends_well(again_max=1)
    heal(arena, 2)
    assert arena.pid("agent") == agent


def test_c1_all_ranks_are_killed(arena: Instance, tmp_path: Path) -> None:
    """The whole MPI step dies, launcher first: ranks are replaced, two tasks at most run again."""
    load = Load(arena, tmp_path)
    for pid in arena.ranks():
        os.kill(pid, signal.SIGKILL)
    load.ends_well(again_max=2)
    heal(arena, 2)


def test_c2_a_rank_hangs(arena: Instance, tmp_path: Path) -> None:
    """SIGSTOP to a rank for good: silence, then it is ended and replaced; its task runs again."""
    load = Load(arena, tmp_path)
    rank = arena.ranks()[0]
    os.kill(rank, signal.SIGSTOP)
    load.ends_well(again_max=1)
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
    load.ends_well(again_max=2)
    watch.tell("work regranted and done", 8)
