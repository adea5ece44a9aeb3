"""D: the ledger's connections are cut, silenced, delayed and used up; its server dies; locks are held."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import pytest
from instance_fixture import Instance, until
from invariants import Stopwatch
from ledger_fixture import administer
from ledger_proxy import Proxy
from load import Load
from server import BACKENDS, backends, commits_again, epoch, url_of

from pyfi_hpc.errors import LedgerUnavailable
from pyfi_hpc.ledger.connection import libpq_url
from pyfi_hpc.ledger.place import place_of

#: RELIABILITY's D4 takes a minute; shorter here, PYFI_TEST_LONG=1 runs it as it is written
_AWAY_S = 60.0 if os.environ.get("PYFI_TEST_LONG") else 20.0
#: a message of its own, as the committing thread sends it; the express lane sends it at the end of a longer one
_COMMIT_ALONE = b"Q\x00\x00\x00\x0bCOMMIT\x00"


def test_d1_sessions_are_terminated(arena: Instance, tmp_path: Path) -> None:
    """pg_terminate_backend to all of the broker's sessions, three times: the same broker takes over from itself."""
    broker = arena.pid("broker")
    load = Load(arena, tmp_path, count=400)
    for _ in range(3):
        before, watch = epoch(arena), Stopwatch()
        administer(url_of(arena), f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) AS b")
        commits_again(arena, before, watch, "sessions terminated", 2)
    load.ends_well(again_max=0)
    assert arena.pid("broker") == broker


def test_d2_a_backend_is_killed(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL to one backend: Postgres ends all others and recovers; the broker is back with it."""
    load = Load(arena, tmp_path)
    before, watch = epoch(arena), Stopwatch()
    os.kill(backends(arena)[0], signal.SIGKILL)
    commits_again(arena, before, watch, "backend killed", 2)
    load.ends_well(again_max=0)


def test_d3_the_server_restarts_at_once(arena: Instance, tmp_path: Path) -> None:
    """SIGQUIT to Postgres, no checkpoint, and a start: recovered from its log within seconds."""
    load = Load(arena, tmp_path)
    before, watch = epoch(arena), Stopwatch()
    arena.crash_ledger()
    arena.start_ledger()
    commits_again(arena, before, watch, "server restarted", 10)
    load.ends_well(again_max=0)


def test_d4_the_server_is_away_for_long(arena: Instance, tmp_path: Path) -> None:
    """Away for 20 s (PYFI_TEST_LONG: 60 s): what runs goes on, nodes keep their leases, nothing runs again."""
    broker, agent = arena.pid("broker"), arena.pid("agent")
    load = Load(arena, tmp_path)
    before = epoch(arena)
    arena.crash_ledger()
    time.sleep(_AWAY_S)
    assert load.error is None, repr(load.error)
    info = arena.ask("info")
    assert info["broker"]["ledger_down"] and info["broker"]["open_tasks"] > 0
    with pytest.raises(LedgerUnavailable, match="the ledger is away"):
        arena.ask("ls", kind="sockets")
    arena.start_ledger()
    watch = Stopwatch()
    commits_again(arena, before, watch, f"server back after {_AWAY_S:.0f} s", 10)
    load.ends_well(again_max=0)
    assert (arena.pid("broker"), arena.pid("agent")) == (broker, agent)


@pytest.mark.parametrize("how", ["request", "reply"])
def test_d5_a_commit_is_cut(behind: tuple[Proxy, Instance], tmp_path: Path, how: str) -> None:
    """The connection is lost before the server sees a COMMIT, or before its answer arrives: looked up, not guessed."""
    proxy, box = behind
    load = Load(box, tmp_path)
    before, watch = epoch(box), Stopwatch()
    proxy.arm(b"COMMIT", how)
    commits_again(box, before, watch, f"commit cut at its {how}", 2)
    assert proxy.fired
    load.ends_well(again_max=0)


def test_d6_the_server_is_mute(behind: tuple[Proxy, Instance], tmp_path: Path) -> None:
    """A COMMIT is carried out and never answered: the watchdog shuts the connection, the commit is found."""
    proxy, box = behind
    load = Load(box, tmp_path)
    before, watch = epoch(box), Stopwatch()
    proxy.arm(b"COMMIT", "mute")
    commits_again(box, before, watch, "mute server", 7)
    load.ends_well(again_max=0)


@pytest.mark.parametrize("statement", [b"COMMIT", _COMMIT_ALONE], ids=["lane", "thread"])
def test_d7_a_commit_comes_late(behind: tuple[Proxy, Instance], tmp_path: Path, statement: bytes) -> None:
    """A COMMIT is on its way until another epoch has begun: the fence refuses it, or its session is gone."""
    proxy, box = behind
    load = Load(box, tmp_path)
    before, watch = epoch(box), Stopwatch()
    proxy.arm(statement, "late")
    if statement == _COMMIT_ALONE:  # too big for the express lane
        big = box.executor().submit("trouble.same", bytes(100_000))
    commits_again(box, before, watch, "late commit", 7)
    proxy.let_go()
    if statement == _COMMIT_ALONE:
        assert big.result(20) == bytes(100_000)
    else:  # a whole group, begin to COMMIT, of an epoch that is over
        until(lambda: b"PF001" in b"".join(proxy.answers), 5.0, f"the fence has refused it: {proxy.answers}")
    load.ends_well(again_max=0)


def test_d5_a_slow_line_to_the_server(behind: tuple[Proxy, Instance], tmp_path: Path) -> None:
    """50 ms for each message to the server: groups grow, nothing is given up."""
    proxy, box = behind
    before = epoch(box)
    proxy.latency_s = 0.05
    load = Load(box, tmp_path)
    load.ends_well(again_max=0)
    assert epoch(box) == before


def test_d12_a_snapshot_is_held(arena: Instance, tmp_path: Path) -> None:
    """A REPEATABLE READ session looks on for a whole run: all goes on, it sees what was. perf/snapshot.py: the rate."""
    before = epoch(arena)
    connection = psycopg2.connect(libpq_url(url_of(arena)))
    connection.set_session(isolation_level="REPEATABLE READ")
    try:
        with connection.cursor() as cursor:
            look = "SELECT (SELECT count(*) FROM outcome_batch), (SELECT count(*) FROM closed_range)"
            cursor.execute(look)
            seen = cursor.fetchone()
            Load(arena, tmp_path, count=300, seconds=0.005).ends_well(again_max=0)
            cursor.execute(look)
            assert cursor.fetchone() == seen
    finally:
        connection.close()
    assert epoch(arena) == before


def test_d13_a_lock_is_held(arena: Instance, tmp_path: Path) -> None:
    """A table is altered in a transaction left open for 8 s: commits wait, are given up, and made in the end."""
    broker = arena.pid("broker")
    load = Load(arena, tmp_path)
    connection = psycopg2.connect(libpq_url(url_of(arena)))
    try:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outcome_batch ADD COLUMN passing int")
            time.sleep(8.0)
        assert load.error is None, repr(load.error)
        connection.rollback()
    finally:
        connection.close()
    watch = Stopwatch()
    load.ends_well(again_max=0)
    watch.tell("lock released", 10)
    assert arena.pid("broker") == broker
    until(lambda: not _waiting(arena), 10.0, "no session of the broker waits for a lock any more")


def _waiting(box: Instance) -> list[tuple[object, ...]]:
    return administer(url_of(box), "SELECT pid, query FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


class Crowd:
    """Connects until no more are let in, and takes every place that becomes free."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections = ExitStack()
        self._leaving, self.is_full = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._push, daemon=True)
        self._thread.start()

    def _push(self) -> None:
        while not self._leaving.is_set():
            try:
                connection = psycopg2.connect(self._url)
            except psycopg2.OperationalError:
                self.is_full.set()
                time.sleep(0.01)
                continue
            self._connections.callback(connection.close)

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join(10)
        self._connections.close()


@pytest.mark.parametrize("role", ["crowd", "pyfi"])
def test_d15_all_connections_are_taken(arena: Instance, tmp_path: Path, role: str) -> None:
    """Every place on the server is taken, then the broker's sessions end: an ordinary role cannot keep it out.

    The ledger's role has three places of its own. If they are taken too, by its own name, it waits until one is free.
    """
    url = libpq_url(url_of(arena))
    with open(place_of(arena.settings).data / "pg_ident.conf", "a") as file:
        file.write('own "root" crowd\n')
    administer(url, "SELECT pg_reload_conf()")
    administer(url, "DROP ROLE IF EXISTS crowd")
    administer(url, "CREATE ROLE crowd LOGIN")
    load = Load(arena, tmp_path)
    mine = psycopg2.connect(url)  # a place to look from
    mine.autocommit = True
    crowd = Crowd(url.replace("//pyfi@", f"//{role}@"))
    try:
        assert crowd.is_full.wait(10)
        reached = len(load.got)
        load.reached(reached + 20)  # open sessions work on
        with mine.cursor() as cursor:
            cursor.execute(BACKENDS)
            for (pid,) in cursor.fetchall():
                cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        watch = Stopwatch()
        if role == "crowd":
            load.reached(load.count)
            watch.tell("back on a reserved place", 2)
        else:
            time.sleep(3.0)
            assert load.error is None, repr(load.error)
    finally:
        crowd.leave()
        mine.close()
    load.ends_well(again_max=0)
    watch.tell("all places free", 5)
