"""Where Slurm keeps accounts and has several clusters: how jobs ended, and allocations of a cluster by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import slurm_accounts
import slurm_yard
from needed import need
from slurm_accounts import WEST, Accounted
from slurm_site import Site, wait
from slurm_yard import INTERVAL_S, Yard, submitted

from pyfi_hpc import Executor
from pyfi_hpc.adapters import slurm
from pyfi_hpc.hosts import allocation, instance, pools
from pyfi_hpc.model.allocations import AllocationRequest, Pool

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def accounted() -> Iterator[Accounted]:
    need("slurm", "a Slurm with accounts", slurm_accounts.missing())
    with Accounted() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def yard(accounted: Accounted) -> Iterator[Yard]:
    """A person on the login node of the first cluster."""
    site = Site(accounted, "accounts")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in (accounted.env | site.environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYFI_BATCH_INTERVAL_S", str(INTERVAL_S))
        monkeypatch.chdir(accounted.shared)
        settings = allocation.reachable(site.settings)
        try:
            instance.start_ledger(settings)
            instance.start_broker(settings)
            site.deploy_naps()
            yield Yard(site)
            slurm_yard.clear(site)
        finally:
            site.close()
            instance.stop(site.settings, lambda: None)
            site.remove()


@pytest.mark.parametrize("where", ["", WEST])
def test_how_jobs_ended(accounted: Accounted, yard: Yard, where: str) -> None:
    """One that failed, one that was cancelled, one that did its work: Slurm's accounts tell it, of either cluster."""
    options = [f"--clusters={where}"] if where else []
    failed, cancelled, done = (
        accounted.sbatch(f"#!/bin/sh\n{line}\n", *options) for line in ("exit 3", "sleep 300", "true")
    )
    wait(lambda: any(job.slurm_job_id == cancelled and job.state == "RUNNING" for job in slurm.jobs(where)), 20)
    slurm.cancel(cancelled, where)

    def told() -> dict[int, str]:
        return slurm.ends([failed, cancelled, done], where)

    def over() -> bool:
        return len(told()) == 3 and not any(words.startswith(("PENDING", "RUNNING")) for words in told().values())

    wait(over, 30, lambda: str(told()))
    assert told()[failed] == "FAILED, exit code 3:0"
    assert told()[cancelled].startswith("CANCELLED by 0, exit code 0:")
    assert told()[done] == "COMPLETED, exit code 0:0"


def test_another_cluster_by_its_name(accounted: Accounted, yard: Yard) -> None:
    """--cluster west: submitted, run, watched and given back there; the first cluster has no job of it."""
    yard.add("far", "--cluster", WEST)
    future = Executor().submit("naps.nap", str(yard.site.marks("west")), 1, 0.1)
    assert future.result(60)[1] == accounted.west_node, yard.story()
    (key,) = submitted(yard.log("far"))
    assert re.fullmatch(rf"\d+@{WEST}", key)
    assert [node["allocation"] for node in yard.site.nodes()] == [key]
    assert yard.pyfi("why", key)["allocation"]["state"] == "RUNNING"
    assert yard.queue() == []
    wait(lambda: f"{key} has ended: COMPLETED" in yard.log("far"), 40, yard.story)
    yard.pyfi("alloc", "rm", "far")


def test_a_start_that_comes_to_nothing(yard: Yard) -> None:
    """The script's Python is not there: the pool tells how the accounts say it ended, and the output; it backs off."""
    request = AllocationRequest(
        instance=yard.site.settings.instance, home=yard.site.settings.home, cluster=WEST, time="5",
        python="/nowhere/python", output=str(yard.site.settings.log_dir / "pyfi-%j.out"),
    )  # fmt: skip
    pools.store(yard.site.settings, Pool(name="broken", batch="slurm", request=request, min=1))
    yard.pyfi("alloc", "start")
    wait(lambda: "no rank of it had joined" in yard.log("broken"), 40, yard.story)
    assert "FAILED, exit code 2:0" in yard.log("broken") and "/nowhere/python" in yard.log("broken"), yard.log("broken")
    yard.pyfi("alloc", "rm", "broken")
