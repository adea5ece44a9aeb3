"""G: clocks that jump or differ, a full scratch, a home that hangs, too little processor, no process number."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill, fill_with_files, freezing_disk, small_disk
from faults import family, no_more_pids, starved
from instance_fixture import Instance, gone, until
from invariants import Stopwatch
from ledger_fixture import administer
from load import LOST, Load, heal
from server import epoch, url_of

from pyfi_hpc.adapters import access as access_file

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
    """A runner that finds no room is told of in its task's error; those that run go on; with room all is well again."""
    (scratch := tmp_path / "scratch").mkdir(mode=0o700)
    with small_disk(scratch, 4, files=300):
        box = instances(scratch=str(scratch))
        try:
            box.up()
            files = fill_with_files(scratch)
            error = box.executor().submit("trouble.same", 1).exception(20)
            assert "could not be started" in str(error), repr(error)
            assert "No space left" in str(error)
            shutil.rmtree(files)
            load = Load(box, tmp_path)
            ballast = fill(scratch)
            load.ends_well(again_max=0)
            assert "No space left" in str(box.executor().submit("trouble.fill_here").exception(20))
            ballast.unlink()
            heal(box, 2)
        finally:
            box.stop()


def test_g4_the_home_hangs(tmp_path: Path) -> None:
    """Nothing can be written to the home for 8 s, where the logs are: broker, agent and ranks serve on."""
    with freezing_disk() as disk:
        box = Instance(disk.folder / "home", "hangs", scratch=str(tmp_path))
        try:
            box.up(ranks=3)
            agent, said = box.pid("agent"), len(box.log("agent"))
            load = Load(box, tmp_path, count=600)
            with disk.frozen():
                os.kill(box.ranks()[0], signal.SIGKILL)  # the agent logs that it is gone, and that it is replaced
                with socket.create_connection(_address(box)) as knock:  # the broker logs who knocks without a key
                    knock.sendall(b"\xff" + bytes(8) + b"\x7f\x03" + b"\0NULL".ljust(53, b"\0"))
                    time.sleep(8.0)
                load.reached(load.count, 1.0)
                assert box.nodes()[0]["ranks"] >= 2
            load.ends_well(again_max=LOST)
            assert box.pid("agent") == agent
            until(lambda: "is replaced" in box.log("agent")[said:], 10.0, "the log says what happened meanwhile")
        finally:
            box.down()


def _address(box: Instance) -> tuple[str, int]:
    access = access_file.read(box.settings)
    return access.host, access.port


def test_g5_the_broker_is_starved(arena: Instance, tmp_path: Path) -> None:
    """5 % of a core for the broker: slower, and nobody is taken for dead."""
    failed, before = failed_attempts(arena), epoch(arena)
    with starved([arena.pid("broker")], 0.05) as stat:
        watch = Stopwatch()
        load = Load(arena, tmp_path, count=5000, seconds=0.0)
        load.reached(load.count)
        watch.tell("5000 calls by a starved broker", 20)
        waits = dict(line.split() for line in stat.read_text().splitlines())
        assert int(waits["nr_throttled"]) > 5
    load.ends_well(again_max=0)
    assert (failed_attempts(arena), epoch(arena)) == (failed, before)


@pytest.mark.parametrize("victim", ["rank", "runner"])
def test_g6_no_process_can_be_started(arena: Instance, tmp_path: Path, victim: str) -> None:
    """A rank or a runner dies and its node has no process number left for 3 s: tried again until there is one."""
    agent = arena.pid("agent")
    load = Load(arena, tmp_path)
    with no_more_pids(family(agent)) as events:
        os.kill((arena.ranks() if victim == "rank" else arena.runners())[0], 9)
        until(lambda: int(events.read_text().split()[1]) > 0, 10.0, "a start was refused")
        time.sleep(3.0)
        assert arena.pid("agent") == agent
        assert load.error is None, repr(load.error)
    watch = Stopwatch()
    load.ends_well(again_max=LOST)
    heal(arena, 2)
    watch.tell("process numbers again", 5)
    assert arena.pid("agent") == agent
