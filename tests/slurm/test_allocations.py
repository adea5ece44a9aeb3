"""Durable tasks on real allocations: sbatch, agents, MPI ranks, an own ledger; losses, walltimes, the end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from slurm_site import ROOT, Site

pytestmark = pytest.mark.slurm


def test_digits_on_sixteen_ranks(site: Site) -> None:
    """The shipped model selection on 4 nodes with 4 ranks each: the whole grid, the right answer, all nodes used."""
    job = site.up(nodes=4, ntasks_per_node=4)
    site.deploy(ROOT / "examples" / "digits")
    site.wait_ranks(16, job)
    run = [sys.executable, str(ROOT / "examples" / "digits" / "run.py")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr + site.said(job)
    accuracy = float(done.stdout.partition("accuracy: ")[2].partition("%")[0])
    assert accuracy > 97
    (fits,) = [row for row in site.ask("jobs", {})["rows"] if row["tasks"] > 100]
    calls = site.calls(fits["job"])
    assert len(calls) == int(done.stdout.partition("best of ")[2].partition(":")[0])
    assert {(call["state"], call["attempt"]) for call in calls} == {("COMPLETED", 1)}
    assert Counter(call["node"].split("/")[0] for call in calls).keys() == set(site.cluster.nodes)
    assert {call["rank"] for call in calls} == set(range(16))
