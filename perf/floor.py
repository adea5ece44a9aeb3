"""Does the foundation hold? No-op rate, round trip, idle cost, memory per queued task; 2 ranks on 2 cores.

    python perf/floor.py [--runs N] [--json FILE]

Client, broker, agent, ranks and Postgres share the cores; fsync and CURVE are on.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import sys
import time
from dataclasses import asdict

import bare
import bench
import psutil
import zmq
from bench import Figure

from pyfi_hpc import Executor
from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters.dealer import BROKER, DealerPort
from pyfi_hpc.client import session
from pyfi_hpc.ledger import embedded
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.runner.payload import encode_call
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec


def rate(runs: int, tasks: int = 50_000) -> Figure:
    """No-op calls by map, from the submit to the last result in the client."""
    rates = []
    with Executor() as executor:
        list(executor.map("noop.noop", range(2_000)))  # the runners import, durations are learned
        for _ in range(runs):
            seconds = bench.timed(lambda: sum(1 for _ in executor.map("noop.noop", range(tasks))))
            rates.append(tasks / seconds)
    return Figure("no-op calls by map", tuple(rates), "tasks/s", 20_000, True)


def submits(runs: int, tasks: int = 20_000) -> Figure:
    """No-op calls by single submits, all results gathered."""
    rates = []
    with Executor() as executor:
        for _ in range(runs):
            begun = time.perf_counter()
            futures = [executor.submit("noop.noop", k) for k in range(tasks)]
            for future in futures:
                future.result()
            rates.append(tasks / (time.perf_counter() - begun))
    return Figure("no-op calls by single submits", tuple(rates), "tasks/s", 0, True)


def round_trip(settings: Settings, runs: int, calls: int = 200) -> Figure:
    """One call at a time: submit to result, the median of many calls in each run; its bare parts in turn with it."""
    medians, ideal = [], []
    with bare.round_trip(settings) as bare_ms, Executor() as executor:
        for _ in range(runs):
            seconds = [bench.timed(lambda: executor.submit("noop.noop", 1).result()) for _ in range(calls)]
            medians.append(1000 * statistics.median(seconds))
            ideal.append(bare_ms(calls))
    return Figure("one call, submit to result, median", tuple(medians), "ms", 3, False, tuple(ideal))


def idle(settings: Settings, runs: int, seconds: float = 5.0) -> Figure:
    """Processor time of broker, agent, ranks and Postgres while nothing is to do, in percent of one core."""
    session.close_all()
    time.sleep(2.0)
    shares = []
    for _ in range(runs):
        before = _cpu(settings)
        time.sleep(seconds)
        shares.append(100 * (_cpu(settings) - before) / seconds)
    return Figure("idle instance", tuple(shares), "% core", 1, False)


def _cpu(settings: Settings) -> float:
    """Seconds of processor time so far of all processes of the instance."""
    roots = [bench.daemon_process(settings, "broker"), bench.daemon_process(settings, "agent")]
    server = embedded.status(settings)
    assert server is not None
    roots.append(psutil.Process(server.pid))
    family = {p for root in roots for p in [root, *root.children(recursive=True)]}
    return sum(t.user + t.system for t in (p.cpu_times() for p in family))


def queued(settings: Settings, tasks: int = 1_000_000, in_batch: int = 1000) -> Figure:
    """Resident memory of the broker with so many tasks queued and no rank to run them.

    The client library looks ahead only so far, so this speaks the protocol itself.
    """
    access = access_file.read(settings)
    keys = (access.broker_public, access.client_public, access.client_secret)
    context = zmq.Context()
    line = DealerPort(context, access.endpoint, BROKER, codec.TO_CLIENT, Limits().message_bytes_max, keys)
    calls = [encode_call(("x" * 60,), {})] * in_batch
    offsets, payload = offsets_of(calls), b"".join(calls)
    begun = time.perf_counter()
    _said(line, m.Hello(PROTOCOL_VERSION, "client", "perf", "1"), m.Welcome, 1)
    key, numbers = os.urandom(16), tasks // in_batch
    for number in range(numbers):
        last = number == numbers - 1
        submit = m.Submit(key, number, number * in_batch, in_batch, last, "noop.noop", offsets, payload, watch=False)
        while not line.send(BROKER, [submit]):
            time.sleep(0.001)
    _said(line, None, m.Accepted, numbers)
    broker = bench.daemon_process(settings, "broker")
    print(f"  {tasks} tasks of {len(calls[0])} bytes accepted in {time.perf_counter() - begun:.1f} s")
    memory = broker.memory_info().rss / 1e6
    line.close(0)
    context.destroy(linger=0)
    return Figure("broker with a million queued tasks", (memory,), "MB", 300, False)


def _said(line: DealerPort, message: m.Message | None, kind: type, count: int, limit_s: float = 120.0) -> None:
    """Wait until the broker has said so many messages of a kind."""
    deadline = time.monotonic() + limit_s
    while count > 0:
        if message is not None and line.send(BROKER, [message]):
            message = None
        select.select([line.waitable], [], [], 0.0 if line.holds() else 0.02)
        count -= sum(isinstance(event.message, kind) for event in line.receive())
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker owes {count} {kind.__name__}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    print(f"{bench.machine()}, commit {bench.commit()}")
    with bench.fresh_instance(2) as settings:
        figures = [
            rate(options.runs), submits(options.runs), round_trip(settings, options.runs),
            idle(settings, min(options.runs, 3)),
        ]  # fmt: skip
    with bench.fresh_instance(0) as settings:
        figures.append(queued(settings))
    for figure in figures:
        print(figure.line())
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {"machine": bench.machine(), "commit": bench.commit(), "seed": 0,
                 "figures": {figure.name: asdict(figure) for figure in figures}},
                file, indent=1,
            )  # fmt: skip
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
