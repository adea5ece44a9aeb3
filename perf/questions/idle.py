"""How much of a core does an instance use that has nothing to do?

Processor time of broker, agent, ranks, runners and Postgres; the client is closed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import bench
import psutil
from bench import Plan
from figure import Figure

from pyfi_hpc.client import session
from pyfi_hpc.ledger import embedded
from pyfi_hpc.settings import Settings


def ask(plan: Plan) -> Iterator[Figure]:
    seconds = plan.size(20, 2)
    shares = []
    with bench.fresh_instance(plan.ranks) as settings:
        session.close_all()
        time.sleep(2.0)
        for _ in range(plan.runs):
            before = _cpu_s(settings)
            time.sleep(seconds)
            shares.append(100 * (_cpu_s(settings) - before) / seconds)
    yield Figure("idle instance", tuple(shares), "% core", False, 1, 0.5)


def _cpu_s(settings: Settings) -> float:
    """Seconds of processor time so far of all processes of the instance; the kernel counts hundredths."""
    roots = [bench.daemon_process(settings, "broker"), bench.daemon_process(settings, "agent")]
    server = embedded.status(settings)
    assert server is not None
    roots.append(psutil.Process(server.pid))
    family = {p for root in roots for p in [root, *root.children(recursive=True)]}
    return sum(t.user + t.system for t in (p.cpu_times() for p in family))
