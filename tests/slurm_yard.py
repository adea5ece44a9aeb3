"""Pools of allocations of an instance on a test cluster, and what a person types and sees of them."""

from __future__ import annotations

import json
import sys
from typing import Any

from slurm_site import Site

from pyfi_hpc.hosts import allocation, instance, pools

#: between two questions to Slurm in these tests, seconds
INTERVAL_S = 1.0


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


def clear(site: Site) -> None:
    """End and forget all pools, allocations and tasks."""
    if instance.find(site.settings, instance.ELASTIC) is not None:
        instance.stop_elastic(site.settings)
    site.cancel_all()
    allocation.end(site.settings, 0.0)
    for name in pools.stored(site.settings):
        pools.remove(site.settings, name)


def submitted(log: str) -> list[str]:
    return [line.split()[1] for line in log.splitlines() if line.endswith("is submitted")]
