"""A: clients that die, repeat themselves, do not read, flood, or all come back at once; others do not notice."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import zmq
from instance_fixture import Instance, until
from invariants import Stopwatch, check
from ledger_fixture import administer
from load import Load, wired

from pyfi_hpc import attach
from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters.dealer import BROKER, DealerPort
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.ledger import embedded
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.runner.payload import encode_call
from pyfi_hpc.wire import codec

_MAPS = """
import sys
from pyfi_hpc import Executor
folder, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
results = Executor().map("trouble.note", [folder] * count, range(count), [seconds] * count)
print(next(results), flush=True)
for value in results:
    print(value, flush=True)
"""


_NESTS = """
import sys
from pyfi_hpc.client.api import *
note, same, add = functions("trouble.note", "trouble.same", "trouble.add")
part = lambda k: pipeline([note(sys.argv[1], k, 0.05), same.p(), add.p(k)])
rows = [funnel([part(10 * row + k) for k in range(8)], same.p()) for row in range(6)]
print(parallel(rows)(wait=False).id, flush=True)
sys.stdin.read()
"""


@contextmanager
def client(box: Instance, folder: Path, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that reads a map, a line per result; it has read the first one."""
    named = {"PYFI_HOME": str(box.settings.home), "PYFI_INSTANCE": box.settings.instance}
    command = [sys.executable, "-c", _MAPS, str(folder), str(count), str(seconds)]
    with subprocess.Popen(command, env=os.environ | named, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "0\n"
            yield process
        finally:
            process.kill()


@contextmanager
def line(box: Instance, name: str = "bare", port: int = 0) -> Iterator[DealerPort]:
    """A client that speaks the protocol itself, past the library's care; ``port``: through a wire."""
    access = access_file.read(box.settings)
    context = zmq.Context()
    keys = (access.broker_public, access.client_public, access.client_secret)
    endpoint = f"tcp://127.0.0.1:{port}" if port else access.endpoint
    made = DealerPort(context, endpoint, BROKER, codec.TO_CLIENT, Limits().message_bytes_max, keys)
    try:
        said(made, m.Hello(PROTOCOL_VERSION, "client", name, "1"), m.Welcome)
        yield made
    finally:
        made.close(0)
        context.destroy(linger=0)


def said(port: DealerPort, message: m.Message | None, kind: type, limit_s: float = 15.0) -> m.Message:
    """Send, and wait for an answer of this kind."""
    deadline = time.monotonic() + limit_s
    while True:
        if message is not None and port.send(BROKER, [message]):
            message = None
        select.select([port.waitable], [], [], 0.02)
        for event in port.receive():
            if isinstance(event.message, kind):
                return event.message  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, f"no {kind.__name__}"


def submission(
    key: bytes, number: int, count: int, first: int = 0, last: bool = True, argument: object = None
) -> m.Submit:
    """A batch of calls of ``same`` with this argument, or their own numbers."""
    calls = [encode_call((first + k if argument is None else argument,), {}) for k in range(count)]
    return m.Submit(key, number, first, count, last, "trouble.same", offsets_of(calls), b"".join(calls))


def jobs_of(box: Instance, key: bytes) -> list[int]:
    rows = administer(embedded.connect_url(box.settings), "SELECT id FROM job WHERE key = %s", key)
    return [int(str(job)) for (job,) in rows]


def test_a1_a_client_dies_before_it_is_told(arena: Instance, tmp_path: Path) -> None:
    """It sends and is gone; another one sends the same key again: one job, and the results are kept for who asks."""
    load = Load(arena, tmp_path)
    again, alone = os.urandom(16), os.urandom(16)
    for key in (again, alone):
        with line(arena) as port:
            while not port.send(BROKER, [submission(key, 0, 50)]):
                time.sleep(0.001)
            select.select([port.waitable], [], [], 0.3)  # whatever comes is not read: it dies here
    with line(arena, "heir") as port:
        repeated = submission(again, 0, 50)
        repeated.resend = True
        accepted = said(port, repeated, m.Accepted)
    assert jobs_of(arena, again) == [accepted.job]  # type: ignore[attr-defined]
    until(lambda: jobs_of(arena, alone), 10.0, "the submission that nobody asked for again runs too")
    for key in (again, alone):
        assert list(attach(jobs_of(arena, key)[0], session=arena.session).results(timeout=30)) == list(range(50))
    load.ends_well(again_max=0)


def test_a1_a_client_is_killed_in_its_map(arena: Instance, tmp_path: Path) -> None:
    """SIGKILL in the middle of a map; another process attaches: every result once."""
    count = 300
    with client(arena, tmp_path, count, 0.02) as process:
        process.kill()
    row = next(row for row in arena.ask("jobs", limit=5)["rows"] if "note" in str(row))
    results = list(attach(row["job"], session=arena.session).results(timeout=60))
    assert results == [x * x for x in range(len(results))]
    assert len(results) >= 1
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(map(int, ran)) == list(range(len(results)))
    check(arena, {row["job"]: results}, limit_s=90.0)


def test_a1_a_client_is_killed_in_a_nested_structure(arena: Instance, tmp_path: Path) -> None:
    """Pipelines in funnels in a parallel; SIGKILL when some have run; another process attaches: every result once."""
    named = {"PYFI_HOME": str(arena.settings.home), "PYFI_INSTANCE": arena.settings.instance}
    command = [sys.executable, "-c", _NESTS, str(tmp_path)]
    with subprocess.Popen(
        command, env=os.environ | named, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        job = int(process.stdout.readline())
        ran = tmp_path / "ran"
        until(lambda: ran.exists() and ran.read_text().count("\n") >= 5, 20.0, "some have run")
        process.kill()
    notes = [[10 * row + k for k in range(8)] for row in range(6)]
    assert len(ran.read_text().split()) < 48, "it was killed in the middle"
    value = attach(job, session=arena.session).get(60)
    assert value == [[x * x + x for x in row] for row in notes]
    assert sorted(map(int, ran.read_text().split())) == [x for row in notes for x in row]
    assert attach(job, session=arena.session).get(60) == value
    check(arena)


def test_a2_answers_are_lost_and_the_client_repeats_itself(arena: Instance, tmp_path: Path) -> None:
    """For 8 s nothing of what the broker says arrives: the client connects again and again; one job per key."""
    with wired(arena, "deaf") as (wire, far):
        session = far.connect(timeout_s=30.0)
        load = Load(arena, tmp_path, session=session)
        futures = []
        wire.down.clear()
        for k in range(8):
            futures.append(Executor(session=session).submit("trouble.same", k))
            time.sleep(1.0)
            if k % 3 == 2:
                wire.cut()
        wire.heal()
        assert [future.result(30) for future in futures] == list(range(8))
        load.ends_well(again_max=0)


def test_a3_a_client_does_not_read(arena: Instance, tmp_path: Path) -> None:
    """SIGSTOP to a client with thousands of results due: memory stays, others are served, then it goes on."""
    count = 20_000
    others = tmp_path / "others"
    others.mkdir()
    with client(arena, tmp_path, count, 0.0) as process:
        process.send_signal(signal.SIGSTOP)
        load = Load(arena, others)
        load.reached(load.count)
        assert psutil.Process(arena.pid("broker")).memory_info().rss < 400 << 20
        process.send_signal(signal.SIGCONT)
        lines = list(process.stdout or ())
        assert process.wait(120) == 0
    assert [int(text) for text in lines] == [x * x for x in range(1, count)]
    load.ends_well(again_max=0)


def test_a4_a_client_floods(arena: Instance, tmp_path: Path) -> None:
    """A client that minds no credits sends 400,000 calls at once: others are served, memory stays."""
    key, in_batch, batches = os.urandom(16), 2000, 200
    load = Load(arena, tmp_path, count=400)
    with line(arena, "flood") as port:
        for number in range(batches):
            while not port.send(BROKER, [submission(key, number, in_batch, number * in_batch, number == batches - 1)]):
                time.sleep(0.001)
        watch = Stopwatch()
        assert arena.executor().submit("trouble.same", "me too").result(60) == "me too"
        watch.tell("one call of another client in the flood", 5)
        assert psutil.Process(arena.pid("broker")).memory_info().rss < 400 << 20
        accepted = said(port, None, m.Accepted, 30.0)
        arena.session.cancel(accepted.job)  # type: ignore[attr-defined]
    load.ends_well(again_max=0)


def test_a5_all_come_back_at_once(arena: Instance, tmp_path: Path) -> None:
    """A thousand sessions are cut at once: all are back in seconds, and who works meanwhile is not starved."""
    count = 1000
    access = access_file.read(arena.settings)
    load = Load(arena, tmp_path)
    with wired(arena, "storm") as (wire, _):
        ports = []
        keys = (access.broker_public, access.client_public, access.client_secret)
        endpoint = f"tcp://127.0.0.1:{wire.port}"
        context = zmq.Context()
        try:
            for _ in range(count):
                ports.append(DealerPort(context, endpoint, BROKER, codec.TO_CLIENT, Limits().message_bytes_max, keys))
            _all_welcome(ports)
            watch = Stopwatch()
            assert wire.cut() >= count
            _all_welcome(ports)
            watch.tell(f"{count} sessions are back", 5)
        finally:
            for port in ports:
                port.close(0)
            context.destroy(linger=0)
    load.ends_well(again_max=0)


def _all_welcome(ports: list[DealerPort]) -> None:
    """Each says hello until it is welcome, without keeping the processor from the broker."""
    waiting = dict(enumerate(ports))
    greeted: dict[int, float] = {}
    deadline = time.monotonic() + 60
    while waiting:
        now = time.monotonic()
        assert now < deadline, f"{len(waiting)} are not back"
        for number, port in list(waiting.items()):
            hello = m.Hello(PROTOCOL_VERSION, "client", f"s{number}", "1")
            if now - greeted.get(number, -10.0) > 5.0 and port.send(BROKER, [hello]):
                greeted[number] = now
            if any(isinstance(event.message, m.Welcome) for event in port.receive()):
                del waiting[number]
        time.sleep(0.2)
