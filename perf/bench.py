"""What every question of the perf suite shares: the plan of a run, and an instance of its own.

Needs nothing but this package with its local extras. fsync and CURVE are on, as always.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_slurm
import msgspec
import psutil
from figure import Figure

from pyfi_hpc import settings as settings_module
from pyfi_hpc.client import deploy, session
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.hosts import allocation, instance
from pyfi_hpc.ledger import embedded
from pyfi_hpc.settings import Settings

HERE = Path(__file__).resolve().parent
#: the home that all questions of one run share: mirrors and environments are made once
HOME = "PYFI_PERF_HOME"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    #: sizes that only show that the programs work and what a figure is about
    quick: bool = False
    #: repetitions of each figure, at least three
    runs: int = 5
    ranks: int = 2
    #: of what is drawn by chance: the simulator, the order of peers
    seed: int = 0

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def times(self, what: Callable[[], float]) -> tuple[float, ...]:
        """One figure's runs."""
        return tuple(what() for _ in range(self.runs))


@contextmanager
def fresh_instance(ranks: int, *processors: str, name: str = "perf") -> Iterator[Settings]:
    """An instance whose ledger is new, ranks joined, ``perf/noop`` and other processors deployed."""
    with home_folder() as home:
        os.environ.update(PYFI_HOME=home, PYFI_INSTANCE=name)
        settings = settings_module.load()
        if in_slurm.inside():
            settings = allocation.reachable(settings)
        try:
            instance.start_ledger(settings)
            instance.start_broker(settings)
            with in_slurm.steps(settings, ranks) if ranks and in_slurm.inside() else nullcontext():
                if ranks and in_slurm.inside():
                    instance.wait_for_ranks(settings, live_nodes, ranks, 60)
                elif ranks:
                    add_agent(settings, ranks)
                for processor in ("noop", *processors):
                    deploy_folder(settings, HERE / processor)
                yield settings
        finally:
            remove(settings)


@contextmanager
def home_folder() -> Iterator[str]:
    if os.environ.get(HOME):
        yield os.environ[HOME]
        return
    with tempfile.TemporaryDirectory(prefix="pyfi-perf-") as home:
        yield home


def remove(settings: Settings) -> None:
    """Stop all of an instance and forget it; what it built stays in its home's cache."""
    instance.stop(settings, lambda: session.current().ask("shutdown", {}, timeout=8.0))
    session.close_all()
    embedded.remove(settings)
    shutil.rmtree(settings.instance_dir, ignore_errors=True)


def deploy_folder(settings: Settings, folder: Path) -> None:
    spec = deploy.prepare(settings, str(folder), allow_dirty=True)
    session.current().ask("deploy", msgspec.to_builtins(spec))


def add_agent(settings: Settings, ranks: int) -> None:
    instance.start_agent(settings, ranks)
    instance.wait_for_ranks(settings, live_nodes, ranks, 60)


def live_nodes() -> Any:
    return session.current().ask("info", {}, timeout=20.0, repeat=True)["broker"]["nodes"]


def daemon_process(settings: Settings, name: str) -> psutil.Process:
    found = instance.find(settings, name)
    assert found is not None, f"no {name} runs"
    return psutil.Process(found.pid)


def warm(executor: Executor, tasks: int = 2_000) -> None:
    """The runners import the module, and the agents learn how long its functions take."""
    assert sum(1 for _ in executor.map("noop.noop", range(tasks))) == tasks


def timed(what: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def until(what: Callable[[], Any], limit_s: float, text: str) -> None:
    """Wait until ``what`` gives something true."""
    deadline = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:.0f} s: {text}")
        time.sleep(0.01)


Question = Callable[[Plan], Iterable[Figure]]
