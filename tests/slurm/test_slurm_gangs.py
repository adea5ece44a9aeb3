"""Tasks of several ranks on real allocations: one MPI world over four nodes, started by srun."""

from __future__ import annotations

import os
import signal

import pytest
from slurm_site import ROOT, Site, node_ranks, wait

from pyfi_hpc import Executor
from pyfi_hpc.errors import Unsatisfiable
from pyfi_hpc.hosts import allocation, instance

pytestmark = pytest.mark.slurm


def test_a_gang_on_sixteen_ranks_of_four_nodes(site: Site) -> None:
    """The shipped heat equation on all ranks of an allocation, beside serial tasks: the exact answer."""
    job = site.up(nodes=4, ntasks_per_node=4)
    site.deploy(ROOT / "examples" / "heat")
    site.wait_ranks(16, job)
    marks = site.marks("beside")
    with Executor() as executor:
        serial = [executor.submit("naps.nap", str(marks), number, 0.05) for number in range(40)]
        run = executor.with_options(ranks=16).submit("heat.solve", 24, 0.5, 0.004)
        found = run.result(100)
        assert [one.result(60)[0] for one in serial] == list(range(40))
    assert found["ranks"] == 16
    assert found["error"] < 1e-3


def test_packed_and_spread(site: Site) -> None:
    """Four of sixteen ranks: on one node, or on four."""
    job = site.up(nodes=4, ntasks_per_node=4)
    site.wait_ranks(16, job)
    marks = site.marks("spread")
    with Executor() as executor:
        packed = executor.with_options(ranks=4).submit("naps.together", str(marks), 0.0)
        assert len(set(packed.result(60)[0])) == 1
        spread = executor.with_options(ranks=4, spread=True).submit("naps.together", str(marks), 0.0)
        assert len(set(spread.result(60)[0])) == 4


def test_a_lost_rank_costs_the_gang_and_not_the_allocation(site: Site) -> None:
    """SIGKILL of a rank in the middle of a gang over all nodes: it runs again whole, in the same allocation, whose rank
    step was started anew."""
    cluster, marks = site.cluster, site.marks("gang")
    job = site.up(nodes=4, ntasks_per_node=2)
    site.wait_ranks(8, job)
    with Executor() as executor:
        gang = executor.with_options(ranks=8).submit("naps.together", str(marks), 20.0)
        wait(lambda: len(list(marks.glob("*-1"))) == 8, 60, lambda: site.said(job))
        os.kill(node_ranks(cluster, cluster.nodes[2])[0], signal.SIGKILL)
        nodes, attempt = gang.result(120)
    assert (len(nodes), attempt) == (8, 2)
    assert cluster.job_state(job) == "RUNNING"
    assert {node["name"].split("/")[1] for node in site.nodes()} == {str(job)}


def test_a_gang_outlives_the_broker(site: Site) -> None:
    """kill -9 of the broker while a gang runs on two nodes: it goes on under the next one, and runs once."""
    marks = site.marks("outlives")
    job = site.up(nodes=2, ntasks_per_node=2)
    site.wait_ranks(4, job)
    with Executor() as executor:
        gang = executor.with_options(ranks=4).submit("naps.together", str(marks), 6.0)
        wait(lambda: len(list(marks.glob("*-1"))) == 4, 60, lambda: site.said(job))
        ranks = {mark.read_text() for mark in marks.glob("*-1")}
        os.kill(site.pid("broker"), signal.SIGKILL)
        instance.start_broker(allocation.reachable(site.settings))
        nodes, attempt = gang.result(60)
    assert (len(set(nodes)), attempt) == (2, 1)
    assert {mark.read_text() for mark in marks.glob("*-*")} == ranks
    assert len(site.attempts(gang.job, 0)) == 1


def test_what_an_allocation_that_waits_could_give_is_not_refused(site: Site) -> None:
    """Four ranks are here, eight in an allocation that Slurm lets wait for them: a call of eight waits with it and runs
    there, one of more than this cluster ever gives is refused."""
    cluster, marks = site.cluster, site.marks("waits")
    here, both = (f"--nodelist={','.join(cluster.nodes[:count])}" for count in (1, 2))
    first = site.up(nodes=1, ntasks_per_node=4, extra=(here,))
    site.wait_ranks(4, first)
    second = site.up(nodes=2, ntasks_per_node=4, extra=(both,))
    with Executor() as executor:
        gang = executor.with_options(ranks=8).submit("naps.together", str(marks), 0.0)
        assert gang.job and cluster.job_state(second) == "PENDING"
        with pytest.raises(Unsatisfiable, match="33 ranks of one MPI world"):
            executor.with_options(ranks=33).submit("naps.together", str(marks), 0.0).result(20)
        cluster.run(["scancel", str(first)])
        assert len(gang.result(100)[0]) == 8
