"""B: the broker dies at any step of a commit, is short of descriptors, is restarted, in the middle of a load."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from faults import little_memory
from instance_fixture import Instance, gone, until
from invariants import Stopwatch, check
from ledger_fixture import administer
from ledger_proxy import Proxy
from load import Load, heal
from test_clients import jobs_of, line, submission
from test_mutants import mutated

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters.dealer import BROKER
from pyfi_hpc.hosts import brokers, instance
from pyfi_hpc.ledger import embedded
from pyfi_hpc.model import messages as m


def test_b1_the_broker_is_killed(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL and a new one half a second later: what runs goes on and is offered to it; nothing runs again."""
    agent, ranks = arena.pid("agent"), sorted(arena.ranks())
    load = Load(arena, tmp_path, count=300)
    long = arena.executor().submit("trouble.wait", 6.0, "long")
    arena.kill(arena.pid("broker"))
    time.sleep(0.5)
    watch = Stopwatch()
    arena.start_broker()
    load.reached(len(load.got) + 20)
    watch.tell("results flow again", 2)
    assert long.result(30) == "long"
    load.ends_well(again_max=0)
    assert (arena.pid("agent"), sorted(arena.ranks())) == (agent, ranks)
    assert [attempt["attempt"] for attempt in arena.ask("call", id=long.id)["attempts"]] == [1]


@pytest.mark.parametrize("statement", [b"BEGIN", b"COPY outcome_batch", b"COPY job", b"COMMIT"])
@pytest.mark.parametrize("how", ["request", "reply"])
def test_b2_the_broker_is_killed_in_a_commit(
    behind: tuple[Proxy, Instance], tmp_path: Path, statement: bytes, how: str
) -> None:
    """SIGKILL as a statement of a group commit leaves, or before its answer comes: known or not, it counts once."""
    proxy, box = behind
    load = Load(box, tmp_path, count=300)
    broker = box.pid("broker")
    proxy.struck = lambda: os.kill(broker, signal.SIGKILL)
    proxy.arm(statement, how)
    # a burst and a large one beside the load's small groups: both ways of committing come by
    large = box.executor().submit("trouble.same", bytes(100_000))
    burst = [box.executor().submit("trouble.same", k) for k in range(600)]
    until(lambda: gone(broker), 20.0, f"{statement!r} came by")
    box.start_broker()
    assert large.result(60) == bytes(100_000)
    assert [future.result(60) for future in burst] == list(range(600))
    load.ends_well(again_max=0)


def test_b4_the_broker_is_out_of_memory(arena: Instance, tmp_path: Path) -> None:
    """A limit that a flood of calls goes beyond: it dies, or refuses; what it had acknowledged is all there."""
    load = Load(arena, tmp_path, count=300)
    key, told = os.urandom(16), []
    arena.kill(arena.pid("broker"))
    with little_memory(110 << 20) as inside:
        with inside():
            arena.start_broker()
        broker = arena.pid("broker")
        with line(arena, "flood") as port:
            for number in range(200):
                batch = submission(key, number, 1000, number * 1000, last=False, argument=bytes(1000))
                until(lambda batch=batch: gone(broker) or port.send(BROKER, [batch]), 20.0, "it is sent")
                told += [event.message for event in port.receive() if isinstance(event.message, m.Accepted)]
                if gone(broker):
                    break
            until(lambda: gone(broker), 30.0, "the limit is reached")  # of 110 MB it needs 75 to begin with
    arena.start_broker()
    numbers = {message.number for message in told}
    url = embedded.connect_url(arena.settings)
    kept = administer(url, "SELECT number FROM task_batch b JOIN job j ON j.id = b.job WHERE key = %s", key)
    assert numbers <= {int(str(number)) for (number,) in kept}
    for job in jobs_of(arena, key):
        arena.session.cancel(job)
    load.ends_well(again_max=0)


def test_b6_no_descriptors_are_left(arena: Instance, tmp_path: Path) -> None:
    """At its limit of open files the broker takes no new connection; who is connected works on; then all is well."""
    broker = psutil.Process(arena.pid("broker"))
    access = access_file.read(arena.settings)
    load = Load(arena, tmp_path, count=300)
    soft, hard = broker.rlimit(psutil.RLIMIT_NOFILE)
    broker.rlimit(psutil.RLIMIT_NOFILE, (broker.num_fds() + 20, hard))
    try:
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection((access.host, access.port), timeout=5))
            load.reached(len(load.got) + 50)
    finally:
        broker.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    load.ends_well(again_max=0)
    assert arena.connect().ask("info", {}, timeout=20.0)["broker"]


def test_many_kills(arena: Instance, tmp_path: Path) -> None:
    """Random SIGKILLs over runners, ranks, agent, broker and Postgres while calls of a millisecond run: the rules hold.

    The whole of it: PYFI_CHAOS_KILLS=100 PYFI_CHAOS_TASKS=200000.
    """
    dice = random.Random(int(os.environ.get("PYFI_CHAOS_SEED", "1")))
    kills = int(os.environ.get("PYFI_CHAOS_KILLS", "15"))
    tasks = int(os.environ.get("PYFI_CHAOS_TASKS", "20000"))
    results = arena.executor().map("trouble.wait", [0.001] * tasks, range(tasks))
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(results), daemon=True)
    reader.start()
    times: list[tuple[str, float]] = []
    for _ in range(kills):
        until(lambda: got, 60.0, "results flow")
        kind = dice.choice(["runner", "rank", "rank", "agent", "broker", "postgres"])
        begun = time.monotonic()
        _kill_and_mend(arena, kind)
        enough = min(len(got) + 1, tasks)
        until(lambda enough=enough: len(got) >= enough, 60.0, f"results flow after {kind}")
        times.append((kind, time.monotonic() - begun))
        time.sleep(dice.random() * tasks / 2000 / kills)
    reader.join(tasks / 500)
    assert got == list(range(tasks))
    for kind in sorted({kind for kind, _ in times}):
        seconds = [s for k, s in times if k == kind]
        print(f"{kind}: {len(seconds)} kills, results flow again after {min(seconds):.1f} to {max(seconds):.1f} s")
    heal(arena, 2)
    check(arena, limit_s=60.0)


def _kill_and_mend(arena: Instance, kind: str) -> None:
    if kind in ("runner", "rank"):
        pids = arena.runners() if kind == "runner" else arena.ranks()
        if pids:
            with suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
    elif kind == "postgres":
        found = embedded.status(arena.settings)
        assert found is not None
        os.kill(found.pid, signal.SIGQUIT)
        until(lambda: gone(found.pid), 10.0, "Postgres is gone")
        arena.start_ledger()
    else:
        if instance.find(arena.settings, kind):
            arena.kill(arena.pid(kind))
        arena.start_broker() if kind == "broker" else arena.start_agent(joined=False)


def test_b3_a_broker_freezes_and_wakes(arena: Instance, tmp_path: Path) -> None:
    """SIGSTOP until a standby has taken over, then SIGCONT: it may not commit any more, and ends."""
    arena.start_standby()
    load = Load(arena, tmp_path, count=300)
    old, watch = arena.pid("broker"), Stopwatch()
    os.kill(old, signal.SIGSTOP)
    until(lambda: (found := instance.find(arena.settings, "broker")) and found.pid != old, 30.0, "the standby serves")
    watch.tell("frozen broker replaced", 2)
    load.reached(len(load.got) + 20)
    os.kill(old, signal.SIGCONT)
    until(lambda: gone(old), 15.0, "the one that woke has ended")
    load.ends_well(again_max=4)  # agents end what runs after some seconds without a broker


def test_b5_the_broker_is_restarted(arena: Instance, tmp_path: Path) -> None:
    """Three restarts in a row: calls in flight and submits do not notice, nothing runs again."""
    load = Load(arena, tmp_path, count=400)
    for _ in range(3):
        old, watch = arena.pid("broker"), Stopwatch()
        brokers.restart_broker(arena.settings)
        watch.tell("restarted", 2)
        assert arena.pid("broker") != old
        assert arena.executor().submit("trouble.same", "meanwhile").result(20) == "meanwhile"
    load.ends_well(again_max=0)


def test_b7_the_ledger_raises(arena: Instance, tmp_path: Path) -> None:
    """Commits fail before they are made, or after, one in seven each: tried again, or found to be there."""
    arena.kill(arena.pid("broker"))
    with mutated("ill_ledger"):
        arena.start_broker()
    try:
        load = Load(arena, tmp_path)
        burst = [arena.executor().submit("trouble.same", k) for k in range(200)]
        assert [future.result(60) for future in burst] == list(range(200))
        load.ends_well(again_max=0)
        assert "made to fail before" in arena.log("broker")
        assert "made to fail after" in arena.log("broker")
    finally:
        arena.kill(arena.pid("broker"))  # the next test has a sound one
