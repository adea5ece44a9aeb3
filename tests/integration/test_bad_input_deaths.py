"""Processes that are killed in the middle of a map: nothing is lost or settled twice, the client just waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from disks import fill, small_disk
from instance_fixture import Instance, gone, until

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, Refused
from pyfi_hpc.ledger.place import place_of

WAIT_S = 40.0
Make = Callable[..., Instance]


class Map:
    """A map of calls that note each run in a file; so long that there is a middle to it."""

    def __init__(self, box: Instance, folder: Path, count: int = 60, seconds: float = 0.05) -> None:
        self._file, self.count = folder / "ran", count
        self._results = box.executor().map(
            "trouble.note", [str(folder)] * count, range(count), [seconds] * count, timeout=WAIT_S
        )
        self.got = [next(self._results) for _ in range(10)]

    def ends_well(self, again_max: int) -> None:
        """All results, in order; at most so many calls ran more than once, and each ran."""
        self.got += list(self._results)
        assert self.got == [x * x for x in range(self.count)]
        ran = Counter(self._file.read_text().split())
        assert set(ran) == set(map(str, range(self.count)))
        twice = {x: n for x, n in ran.items() if n > 1}
        assert sum(n - 1 for n in twice.values()) <= again_max, twice


def serves(box: Instance, ranks: int = 2) -> None:
    until(lambda: sum(node["ranks"] for node in box.nodes()) == ranks, 15.0, "all ranks are there")
    assert list(box.executor().map("trouble.same", range(20), timeout=20)) == list(range(20))


def test_a_runner_is_killed(healthy: Instance, tmp_path: Path) -> None:
    """SIGKILL to both runners in the middle: the two tasks that ran are tried again, on new runners."""
    work = Map(healthy, tmp_path)
    for pid in healthy.runners():
        os.kill(pid, signal.SIGKILL)
    work.ends_well(2)


def test_a_rank_is_killed(healthy: Instance, tmp_path: Path) -> None:
    """SIGKILL to one rank in the middle: what it had is tried again, the rank is replaced, what it had started ends."""
    healthy.executor().submit("trouble.leave_grandchild", 600, True).result(WAIT_S)
    work = Map(healthy, tmp_path)
    children = {pid: [c.pid for c in psutil.Process(pid).children(recursive=True)] for pid in healthy.ranks()}
    sleepers = [p.pid for pids in children.values() for p in map(psutil.Process, pids) if p.name() == "sleep"]
    assert sleepers
    victim = next(pid for pid, pids in children.items() if set(sleepers) & set(pids))
    os.kill(victim, signal.SIGKILL)
    work.ends_well(2)  # the one that ran, and the one before if its end was not told yet
    until(lambda: all(map(gone, children[victim])), 5.0, f"what rank {victim} had started has ended")
    serves(healthy)


def test_a_rank_is_stopped(healthy: Instance, tmp_path: Path) -> None:
    """SIGSTOP to a rank: after its silence it is ended and replaced; the map completes."""
    work = Map(healthy, tmp_path, count=40)
    os.kill(healthy.ranks()[0], signal.SIGSTOP)
    work.ends_well(2)
    serves(healthy)


def test_the_agent_is_killed(rough: Instance, tmp_path: Path) -> None:
    """SIGKILL to the agent in the middle: its ranks end by themselves, a new agent takes over."""
    box = rough
    work = Map(box, tmp_path)
    ranks, runners = box.ranks(), box.runners()
    box.kill(box.pid("agent"))
    box.start_agent(joined=False)
    until(lambda: all(map(gone, ranks + runners)), 8.0, "the ranks of the dead agent have ended")
    work.ends_well(4)
    serves(box)


def test_the_broker_is_killed(rough: Instance, tmp_path: Path) -> None:
    """SIGKILL to the broker in the middle and a new one: ranks and the client's iterator go on, nothing runs twice."""
    box = rough
    work = Map(box, tmp_path, count=100)
    agent, ranks = box.pid("agent"), sorted(box.ranks())
    box.kill(box.pid("broker"))
    time.sleep(0.5)
    box.start_broker()
    work.ends_well(0)
    assert (box.pid("agent"), sorted(box.ranks())) == (agent, ranks)
    serves(box)


def test_broker_and_agent_are_killed(rough: Instance, tmp_path: Path) -> None:
    """Everything but Postgres dies at once, and is started again: what was accepted completes."""
    box = rough
    work = Map(box, tmp_path, count=60)
    box.kill(box.pid("broker"))
    box.kill(box.pid("agent"))
    box.start_broker()
    box.start_agent(joined=False)
    work.ends_well(12)
    serves(box)


# --- one broker, one agent, one port ---------------------------------------------------------------------------------


def once(box: Instance, host: str = "broker") -> subprocess.CompletedProcess[str]:
    """Run a daemon of this instance as its host program, until it ends."""
    which = ["--instance", box.settings.instance, "--home", str(box.settings.home)]
    command = [sys.executable, "-m", f"pyfi_hpc.hosts.{host}", *which]
    variables = {**os.environ, "PYFI_SCRATCH": str(box.settings.scratch)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=20, check=False)


def test_a_second_broker(healthy: Instance) -> None:
    """Refused, names the holder, exit code 5; the first one does not notice."""
    before = healthy.settings.access_file.read_bytes()
    done = once(healthy)
    assert done.returncode == BrokerHeld.exit_code == 5
    assert "another broker holds this ledger" in done.stderr
    assert f"pid {healthy.pid('broker')}" in done.stderr
    assert healthy.settings.access_file.read_bytes() == before
    with pytest.raises(BrokerHeld) as caught:
        healthy.start_broker()
    assert str(healthy.pid("broker")) in str(caught.value)


def test_a_second_agent(healthy: Instance) -> None:
    """Refused, names the first one, exit code 5; the ranks of that do not notice."""
    ranks = sorted(healthy.ranks())
    done = once(healthy, "agent")
    assert done.returncode == Refused.exit_code == 5
    assert f"another agent of this instance runs on this node, pid {healthy.pid('agent')}" in done.stderr
    assert sorted(healthy.ranks()) == ranks
    serves(healthy)


def bound(other: socket.socket, host: str, port: int) -> bool:
    """Connections that look for their broker may hold the port for a moment."""
    try:
        other.bind((host, port))
    except OSError:
        return False
    return True


def test_the_port_is_in_use(rough: Instance) -> None:
    """Somebody took the port while the broker was away: it takes another, the access file says so, all find it."""
    box = rough
    old = access_file.read(box.settings)
    box.kill(box.pid("broker"))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: bound(other, old.host, old.port), 10.0, "the port is ours")
        other.listen()
        box.start_broker()
        new = access_file.read(box.settings)
        assert new.port != old.port
        assert f"port {old.port} is in use" in box.log("broker")
        serves(box)


# --- the ledger -------------------------------------------------------------------------------------------


def test_no_ledger_at_the_start(instances: Make) -> None:
    """Postgres does not run: the broker says so and ends with 4; of a URL it shows no password."""
    box = instances()
    with pytest.raises(LedgerUnavailable) as caught:
        box.start_broker()
    assert "pyfi up" in str(caught.value)
    done = once(box)
    assert done.returncode == 4
    assert "the instance's Postgres does not run" in done.stderr
    far = instances(ledger="postgresql://me:secret@127.0.0.1:9/nothing")
    with pytest.raises(LedgerUnavailable) as caught:
        far.start_broker()
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value) + far.log("broker")


def test_the_ledger_dies_under_load(rough: Instance, tmp_path: Path) -> None:
    """Postgres dies for three seconds in the middle of a map: work goes on, submissions wait, each runs once."""
    box = rough
    broker = box.pid("broker")
    slow = box.executor().submit("trouble.pid_and_wait", str(tmp_path), 5.0)
    long = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 5.0, "the long call runs"))
    work = Map(box, tmp_path, count=60)
    box.crash_ledger()
    waiting = box.executor().submit("trouble.same", 7)
    time.sleep(3.0)
    assert not waiting.done()
    assert not gone(long), "what runs goes on"
    box.start_ledger()
    assert waiting.result(WAIT_S) == 7
    assert slow.result(WAIT_S) == 5.0
    work.ends_well(0)
    assert box.pid("broker") == broker
    serves(box)


def test_the_ledger_stays_away(rough: Instance) -> None:
    """Longer than the client's patience: LedgerUnavailable names Postgres; when it is back the same broker serves."""
    box = rough
    broker = box.pid("broker")
    session = box.connect(timeout_s=2.0)
    assert session.ask("info")
    before = box.log("broker").count("the ledger is away")
    box.crash_ledger()
    first = box.executor().submit("trouble.same", 1)  # by which the broker learns of it
    until(lambda: box.log("broker").count("the ledger is away") > before, 8.0, "the broker has noticed")
    error = Executor(session=session).submit("trouble.same", 2).exception(15.0)
    assert isinstance(error, LedgerUnavailable), repr(error)
    assert "the ledger does not take this now" in str(error)
    assert error.fix
    box.start_ledger()
    assert first.result(WAIT_S) == 1
    serves(box)
    assert box.pid("broker") == broker


def test_a_full_disk_under_the_ledger(instances: Make) -> None:
    """A ledger on 160 MB that are filled up: refused with the reason; when space is freed all goes on."""
    box = instances()
    base = place_of(box.settings).base
    base.mkdir(parents=True)
    with small_disk(base, 160):
        try:
            box.up()
            _fill_and_free(box, base)
        finally:
            box.stop()


def _fill_and_free(box: Instance, disk: Path) -> None:
    broker = box.pid("broker")
    ballast = fill(disk)
    patient, hasty = box.executor(), Executor(session=box.connect(timeout_s=2.0))
    held = patient.submit("trouble.same", bytes(4 << 20))
    for _ in range(2):  # the first may be on its way before the broker knows
        refused = hasty.submit("trouble.same", 1).exception(15.0)
        assert isinstance(refused, LedgerUnavailable), repr(refused)
    assert "No space left on device" in str(refused), str(refused)
    assert box.pid("broker") == broker
    ballast.unlink()
    assert held.result(WAIT_S) == bytes(4 << 20)
    serves(box)
    assert box.pid("broker") == broker
