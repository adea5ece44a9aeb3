"""Elastic allocations on a real Slurm: asked for from the backlog, given back, held to their limits, found again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_site import Site, wait

from pyfi_hpc import Executor
from pyfi_hpc.hosts import allocation, instance, pools

pytestmark = pytest.mark.slurm

#: between two questions to Slurm in these tests, seconds
_INTERVAL_S = 1.0


class Yard:
    """A person with an instance and pools of allocations, and what they type."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def pyfi(self, *words: str, check: bool = True) -> Any:
        """A command with ``--json``: what it printed."""
        command = [sys.executable, "-m", "pyfi_hpc.cli.main", *words, "--json"]
        done = self.site.cluster.run(command, 60, env=self.site.environment, check=check)
        return json.loads(done.stdout or done.stderr)

    def add(self, name: str, *words: str) -> None:
        self.pyfi("alloc", "add", name, "-t", "5", "--idle", "3", "--worth", "2", *words)

    def pool(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.pyfi("alloc", "ls")["pools"] if one["name"] == name]
        return dict(found)

    def log(self, name: str) -> str:
        return "\n".join(pools.log(self.site.settings, name))

    def queue(self, text: str = "") -> list[str]:
        """Jobs that wait or run in Slurm, as ID PARTITION STATE COMMENT."""
        lines = self.site.cluster.run(["squeue", "-h", "-o", "%i %P %T %k"]).stdout.splitlines()
        return [line for line in lines if text in line and "COMPLETING" not in line]

    def story(self) -> str:
        texts = [self.log(name) for name in pools.stored(self.site.settings)]
        file = self.site.settings.log_dir / "elastic.log"
        logs = [f.read_text()[-2000:] for f in sorted(self.site.settings.log_dir.glob("pyfi-*.out"))]
        return "\n".join([*texts, file.read_text()[-3000:] if file.exists() else "", *self.queue(), *logs])


@pytest.fixture
def yard(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """An instance with ledger and broker, no pool and no allocation; everything of it has ended after the test."""
    monkeypatch.setenv("PYFI_BATCH_INTERVAL_S", str(_INTERVAL_S))
    yield Yard(site)
    if instance.find(site.settings, instance.ELASTIC) is not None:
        instance.stop_elastic(site.settings)
    site.cancel_all()
    allocation.end(site.settings, 0.0)
    for name in pools.stored(site.settings):
        pools.remove(site.settings, name)


def test_a_backlog_is_served_and_idle_allocations_go(yard: Yard) -> None:
    """30 tasks and --max 2: one probes, then there are two, never three; all is done, and both are given back."""
    site, marks = yard.site, yard.site.marks("elastic")
    yard.add("batch", "--max", "2", "-p", "batch", "--ntasks-per-node", "2")
    assert yard.queue() == []
    results = Executor().map("naps.nap", [str(marks)] * 60, range(60), [1.0] * 60, timeout=120)
    most = 0
    deadline = time.monotonic() + 100
    while len(list(marks.glob("*-1"))) < 60 and time.monotonic() < deadline:
        most = max(most, len(yard.queue()))
        time.sleep(0.3)
    done = list(results)
    assert [attempt for _, _, attempt in done] == [1] * 60, yard.story()
    assert most == 2, yard.story()
    wait(lambda: not yard.queue(), 30, yard.story)
    assert all(yard.site.cluster.job_state(int(key)) == "COMPLETED" for key in _submitted(yard.log("batch")))
    wait(lambda: allocation.noted(site.settings) == [], 10, yard.story)
    assert "without work for" in yard.log("batch")
    assert yard.pool("batch")["allocations"] == []


def _submitted(log: str) -> list[str]:
    return [line.split()[1] for line in log.splitlines() if line.endswith("is submitted")]
