"""What every question of the perf suite shares: an instance of its own, figures with their spread.

Needs nothing but this package with its local extras. fsync and CURVE are on, as always.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from pyfi_hpc import settings as settings_module
from pyfi_hpc.client import deploy, session
from pyfi_hpc.hosts import instance
from pyfi_hpc.ledger import embedded
from pyfi_hpc.settings import Settings

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of its runs, the spread, and what to hold it against."""

    name: str
    runs: tuple[float, ...]
    unit: str
    floor: float  #: what the project asks for
    most: bool  #: True: at least the floor; False: at most
    ideal: tuple[float, ...] = ()  #: what the bare parts of it take here, measured in turn with the runs

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def reached(self) -> bool:
        return self.median >= self.floor if self.most else self.median <= self.floor

    def line(self) -> str:
        spread = f"{min(self.runs):.4g} .. {max(self.runs):.4g}"
        sign = ">=" if self.most else "<="
        mark = "" if self.reached else "   NOT REACHED"
        bar = f"{sign} {self.floor:g}{mark}" if self.floor else ""
        ideal = f", bare parts {statistics.median(self.ideal):.3g}" if self.ideal else ""
        return f"{self.name:40} {self.median:>10.4g} {self.unit:8} {bar:24} runs {spread}, n={len(self.runs)}{ideal}"


@contextmanager
def fresh_instance(ranks: int) -> Iterator[Settings]:
    """An instance in a temporary home, ranks joined, ``perf/noop`` deployed."""
    with tempfile.TemporaryDirectory(prefix="pyfi-perf-") as home:
        os.environ.update(PYFI_HOME=home, PYFI_INSTANCE="perf")
        settings = settings_module.load()
        try:
            instance.start_ledger(settings)
            instance.start_broker(settings)
            if ranks:
                add_agent(settings, ranks)
            spec = deploy.prepare(settings, str(HERE / "noop"), allow_dirty=True)
            session.current().ask("deploy", msgspec.to_builtins(spec))
            yield settings
        finally:
            instance.stop(settings, lambda: session.current().ask("shutdown", {}, timeout=8.0))
            session.close_all()
            remove_ledger(settings)


def add_agent(settings: Settings, ranks: int) -> None:
    instance.start_agent(settings, ranks)
    instance.wait_for_ranks(settings, lambda: session.current().ask("info", {})["broker"]["nodes"], ranks, 60)


def remove_ledger(settings: Settings) -> None:
    embedded.remove(settings)


def daemon_process(settings: Settings, name: str) -> psutil.Process:
    found = instance.find(settings, name)
    assert found is not None, f"no {name} runs"
    return psutil.Process(found.pid)


def timed(what: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total >> 30
    return f"{cores} cores of {model}, {memory} GiB, load {os.getloadavg()[0]:.1f}"


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, timeout=10
    ).stdout.strip()
