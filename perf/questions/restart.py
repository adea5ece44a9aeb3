"""How long is nobody there, when the broker is killed with a million tasks queued and started again?

From ``kill -9`` until a client that was connected has an answer. The start follows the kill at once, as by whoever
keeps it running; with a standby nobody has to start one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import bench
import raw
from bench import Plan
from figure import Figure, short

from pyfi_hpc.client import session
from pyfi_hpc.hosts import brokers, instance


def ask(plan: Plan) -> Iterator[Figure]:
    tasks = plan.size(1_000_000, 100_000)
    alone, standby, ideal = [], [], []
    with bench.fresh_instance(0) as settings:
        with raw.filler(settings) as filler:
            filler.queue(tasks)

        def back(start: bool) -> float:
            pid = bench.daemon_process(settings, "broker").pid
            epoch = _queued(tasks)

            def restart() -> None:
                os.kill(pid, signal.SIGKILL)
                if start:
                    bench.until(lambda: instance.find(settings, "broker") is None, 20, "the broker is dead")
                    instance.start_broker(settings)
                assert _queued(tasks) != epoch

            return bench.timed(restart)

        for _ in range(plan.runs):
            alone.append(back(start=True))
            ideal.append(bench.timed(_load))
        for _ in range(plan.runs):
            brokers.start_standby(settings)
            standby.append(back(start=False))
    yield Figure(f"broker back, {short(tasks)} queued", tuple(alone), "s", False, 0, 2, tuple(ideal))
    yield Figure("broker back by a standby", tuple(standby), "s", False, 0, 2)


def _queued(tasks: int) -> int:
    """Wait for the broker's answer; all tasks are there; which broker it is."""
    found = session.current().ask("info", {}, timeout=60.0, repeat=True)["broker"]
    assert found["open_tasks"] == tasks, found
    return int(found["epoch"])


def _load() -> None:
    """What a new process needs before it can do anything."""
    subprocess.run([sys.executable, "-c", "import pyfi_hpc.hosts.broker"], check=True, timeout=60)
