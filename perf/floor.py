"""Does the foundation hold? No-op rate, round trip, idle cost, memory per queued task; 2 ranks on 2 cores.

    python perf/floor.py [--runs N] [--json FILE]

Client, broker, agent, ranks and Postgres share the cores; fsync and CURVE are on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import repeat

import bench
import psutil
from bench import Figure

from pyfi_hpc import Executor
from pyfi_hpc.client import session
from pyfi_hpc.settings import Settings


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


def round_trip(runs: int, calls: int = 200) -> Figure:
    """One call at a time: submit to result, the median of many calls in each run."""
    medians = []
    with Executor() as executor:
        for _ in range(runs):
            medians.append(
                1000 * statistics.median(bench.timed(executor.submit("noop.noop", 1).result) for _ in range(calls))
            )
    return Figure("one call, submit to result, median", tuple(medians), "ms", 3, False)


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
    home = str(settings.home)
    postgres = [p for p in psutil.process_iter(["name", "cmdline"]) if _is_ours(p, settings, home)]
    family = {p for root in roots + postgres for p in [root, *root.children(recursive=True)]}
    return sum(t.user + t.system for t in (p.cpu_times() for p in family))


def _is_ours(process: psutil.Process, settings: Settings, home: str) -> bool:
    from pyfi_hpc.ledger import embedded

    server = embedded.status(settings)
    return server is not None and process.pid == server.pid


def queued(settings: Settings, tasks: int = 1_000_000) -> Figure:
    """Resident memory of the broker with so many tasks queued and no rank to run them."""
    before = bench.daemon_process(settings, "broker").memory_info().rss
    begun = time.perf_counter()
    executor = Executor()
    results = executor.map("noop.noop", repeat("x" * 60, tasks), chunksize=1000)
    executor.session.flush()
    print(f"  {tasks} tasks accepted in {time.perf_counter() - begun:.1f} s; the broker began at {before >> 20} MB")
    after = bench.daemon_process(settings, "broker").memory_info().rss
    del results
    return Figure("broker with a million queued tasks", (after / 1e6,), "MB", 300, False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    print(f"{bench.machine()}, commit {bench.commit()}")
    with bench.fresh_instance(2) as settings:
        figures = [
            rate(options.runs), submits(options.runs), round_trip(options.runs), idle(settings, min(options.runs, 3)),
        ]  # fmt: skip
    with bench.fresh_instance(0) as settings:
        figures.append(queued(settings))
    for figure in figures:
        print(figure.line())
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {"machine": bench.machine(), "commit": bench.commit(), "seed": 0,
                 "figures": {f.name: {"runs": f.runs, "unit": f.unit, "floor": f.floor} for f in figures}},
                file, indent=1,
            )  # fmt: skip
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
