"""G: clocks that jump or differ, a scratch that is full, a home that hangs, too little processor or no process number."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill, freezing_disk, small_disk
from faults import family, no_more_pids, starved
from instance_fixture import Instance, gone, until
from invariants import Stopwatch
from ledger_fixture import administer
from load import Load, heal
from server import epoch, url_of

Make = Callable[..., Instance]
_HOUR_S = 3600.0

#: becomes sitecustomize: the wall clock is off by what is in a file that all processes see
_CLOCK = """\
import datetime, mmap, os, struct, time
with open(os.path.join(os.path.dirname(__file__), "offset"), "rb") as file:
    _offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
_time, _gmtime, _localtime = time.time, time.gmtime, time.localtime
time.time = lambda: _time() + struct.unpack("d", _offset)[0]
time.time_ns = lambda: int(time.time() * 1e9)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
class datetime_(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = datetime_
"""


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets by how many seconds the wall clock is off in all processes that are started from now on."""
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_CLOCK)
    (folder / "offset").write_bytes(struct.pack("d", 0.0))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")

    def set_offset(seconds: float) -> None:
        with open(folder / "offset", "r+b") as file:
            file.write(struct.pack("d", seconds))

    return set_offset


def restart(box: Instance, *, broker: bool = True, agent: bool = True) -> None:
    """New processes, with the environment of now."""
    for name, wanted in (("agent", agent), ("broker", broker)):
        if wanted:
            ours = family(box.pid(name))
            box.kill(box.pid(name))
            until(lambda ours=ours: all(map(gone, ours)), 10.0, f"all of the {name} has ended")
    if broker:
        box.start_broker()
    if agent:
        until(lambda: not box.nodes(), 15.0, "the old node is forgotten")
        box.start_agent()


def failed_attempts(box: Instance) -> int:
    return int(str(administer(url_of(box), "SELECT count(*) FROM attempt_failed")[0][0]))


@pytest.mark.parametrize("who", ["broker", "agent"])
def test_g1_the_wall_clock_jumps(
    arena: Instance, tmp_path: Path, wall_clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """An hour on, two back, one on, in the broker or on the node: no lease, retry or order depends on it."""
    restart(arena, broker=who == "broker", agent=who == "agent")
    monkeypatch.undo()  # others that start have the true time
    broker, agent, before, failed = arena.pid("broker"), arena.pid("agent"), epoch(arena), failed_attempts(arena)
    load = Load(arena, tmp_path, count=300)
    for offset, until_result in ((_HOUR_S, 80), (-_HOUR_S, 150), (0.0, 220)):
        wall_clock(offset)
        load.reached(until_result)
    load.ends_well(again_max=0)
    assert (arena.pid("broker"), arena.pid("agent"), epoch(arena)) == (broker, agent, before)
    assert failed_attempts(arena) == failed
    wall_clock(_HOUR_S)
    assert arena.executor().submit("trouble.same", 1).result(20) == 1
    wall_clock(0.0)
    times = administer(url_of(arena), "SELECT max(at) - clock_timestamp() > interval '50 minutes' FROM ledger_commit")
    assert times == [(False,)], "the ledger's own times are those of Postgres"
    restart(arena, broker=who == "broker", agent=who == "agent")


def test_g2_the_monotonic_clock_differs(arena: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was booted a year earlier, in a time namespace: only differences of one process count."""
    trial = subprocess.run(["unshare", "--time", "--fork", "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"a time namespace is needed: {trial.stderr.strip()}")
    restart_agent = tmp_path / "python"
    restart_agent.write_text(
        f'#!/bin/sh\nexec unshare --time --monotonic 31536000 --fork --kill-child "{sys.executable}" "$@"\n'
    )
    restart_agent.chmod(restart_agent.stat().st_mode | stat.S_IXUSR)
    with monkeypatch.context() as changed:
        changed.setattr(sys, "executable", str(restart_agent))
        restart(arena, broker=False)
    offsets = Path(f"/proc/{arena.pid('agent')}/timens_offsets").read_text().split()
    assert offsets[:2] == ["monotonic", "31536000"]
    failed = failed_attempts(arena)
    Load(arena, tmp_path).ends_well(again_max=0)
    assert failed_attempts(arena) == failed
    restart(arena, broker=False)


def test_g3_scratch_is_full(instances: Make, tmp_path: Path) -> None:
    """What runs goes on; a runner that finds no room says so in its task's error; with room all is well."""
    (scratch := tmp_path / "scratch").mkdir(mode=0o700)
    with small_disk(scratch, 4):
        box = instances(scratch=str(scratch))
        try:
            box.up()
            load = Load(box, tmp_path)
            ballast = fill(scratch)
            full = box.executor().submit("trouble.fill_here")
            assert "No space left" in str(full.exception(20)), repr(full.exception(1))
            load.ends_well(again_max=0)
            for pid in box.runners():
                box.kill(pid)
            error = box.executor().submit("trouble.same", 1).exception(30)
            print(repr(error))
            ballast.unlink()
            assert box.executor().submit("trouble.same", 1).result(20) == 1
            heal(box, 2)
        finally:
            box.stop()


def test_g4_the_home_hangs(instances: Make, tmp_path: Path) -> None:
    """Nothing can be written to the home for 5 s: a load goes on, and what is said in the meantime is logged later."""
    with freezing_disk() as disk:
        box = Instance(disk.folder / "home", "hangs", scratch=str(tmp_path))
        try:
            box.up()
            load = Load(box, tmp_path, count=400)
            with disk.frozen():
                agent, rank = box.pid("agent"), box.ranks()[0]
                administer(url_of(box), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
                load.reached(len(load.got) + 100, 10.0)
                time.sleep(3.0)
                assert box.nodes(), "the broker serves"
            load.ends_well(again_max=0)
            assert box.pid("agent") == agent
            assert rank in box.ranks()
        finally:
            box.down()


def test_g5_the_broker_is_starved(arena: Instance, tmp_path: Path) -> None:
    """5 % of a core for the broker: slower, and nobody is taken for dead."""
    failed, before = failed_attempts(arena), epoch(arena)
    load = Load(arena, tmp_path, count=100)
    with starved([arena.pid("broker")], 0.05):
        watch = Stopwatch()
        load.reached(load.count, 60.0)
        watch.tell("100 calls by a starved broker", 20)
    load.ends_well(again_max=0)
    assert (failed_attempts(arena), epoch(arena)) == (failed, before)


@pytest.mark.parametrize("victim", ["rank", "runner"])
def test_g6_no_process_can_be_started(arena: Instance, tmp_path: Path, victim: str) -> None:
    """A rank or a runner dies and its node has no process number left for 3 s: tried again until there is one."""
    agent = arena.pid("agent")
    with no_more_pids(family(agent)) as events:
        load = Load(arena, tmp_path)
        os.kill((arena.ranks() if victim == "rank" else arena.runners())[0], 9)
        until(lambda: int(events.read_text().split()[1]) > 0, 10.0, "a start was refused")
        time.sleep(3.0)
        assert arena.pid("agent") == agent
        assert load.error is None, repr(load.error)
    watch = Stopwatch()
    load.ends_well(again_max=1)
    heal(arena, 2)
    watch.tell("process numbers again", 5)
    assert arena.pid("agent") == agent
