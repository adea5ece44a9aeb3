"""Programs on the ranks of a task, ``launch="step"``, as steps of their own in real allocations: srun starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster
from slurm_site import Site, wait

from pyfi_hpc import Executor

pytestmark = pytest.mark.slurm

_CODE = """
import os
import pyfi_task

def run(argv, **options):
    return pyfi_task.step(argv, **options)

def with_plugin(name, argv):
    os.environ["PYFI_SLURM_MPI"] = name
    return pyfi_task.step(argv)

def hosts():
    return pyfi_task.hosts()

def runner(argv, file):
    with open(file, "a") as marks:
        print(os.getpid(), os.uname().nodename, file=marks, flush=True)
    return pyfi_task.step(argv)
"""

#: a program of MPI: each says the sum over all numbers, and where it is
_SUM = """
import os
from mpi4py import MPI
comm = MPI.COMM_WORLD
total = comm.allreduce(comm.Get_rank() + 1)
names = comm.gather(os.environ["SLURMD_NODENAME"])
if comm.Get_rank() == 0:
    print("sum", total, "of", comm.Get_size(), "on", *names, flush=True)
"""


def deploy(site: Site) -> None:
    folder = site.cluster.shared / "stepping"
    if not folder.exists():
        folder.mkdir()
        (folder / "stepping.py").write_text(_CODE)
        subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20)
    site.deploy(folder)


def call(site: Site, name: str, *args: Any, job: int, **needs: Any) -> Any:
    with Executor() as executor:
        future = executor.with_options(launch="step", **needs).submit(f"stepping.{name}", *args)
        try:
            return future.result(60)
        except TimeoutError:
            raise AssertionError(site.said(job)) from None


def left(cluster: Cluster, mark: str) -> list[tuple[str, int]]:
    return [(node, pid) for node in cluster.nodes for pid in cluster.node_pids(node, mark)]


def program(site: Site, name: str, text: str) -> str:
    file = site.cluster.shared / name
    file.write_text(text)
    return str(file)


def given(site: Site) -> int:
    return sum(node["given"]["ranks"] for node in site.nodes())


def test_a_step_of_an_mpi_program(site: Site) -> None:
    """An allreduce over 4 ranks of one node; over 2 nodes, evenly; and over 2 nodes with 3 and 1."""
    job = site.up(nodes=2, ntasks_per_node=3)
    deploy(site)
    site.wait_ranks(6, job)
    argv = [sys.executable, program(site, "sum.py", _SUM)]
    found = call(site, "run", argv, job=job, ranks=3)
    assert found["returncode"] == 0, found
    assert found["stdout"].startswith("sum 6 of 3 on"), found
    assert len(set(found["stdout"].split()[5:])) == 1
    for spread, counts in ((True, [2, 2]), (False, [1, 3])):
        found = call(site, "run", argv, job=job, ranks=4, spread=spread)
        assert found["returncode"] == 0, found
        assert found["stdout"].startswith("sum 10 of 4 on"), found
        names = found["stdout"].split()[5:]
        assert sorted(names.count(name) for name in set(names)) == counts
        hosts = call(site, "hosts", job=job, ranks=4, spread=spread)
        assert sorted(hosts.count(name) for name in set(hosts)) == counts
    wait(lambda: given(site) == 0, 10, "all ranks are given back")
    said = call(site, "run", 'echo "$SLURM_JOB_ID $SLURM_NTASKS"', job=job, ranks=2)
    assert said["stdout"] == f"{job} 2\n" * 2


@pytest.mark.parametrize("how", ["cancel", "runner", "time limit"])
def test_nothing_stays_of_a_step_that_is_ended(site: Site, how: str) -> None:
    """On two nodes, with programs that ignore SIGTERM: no process of it and no step in Slurm stays, and the ranks are
    given back."""
    cluster = site.cluster
    job = site.up(nodes=2, ntasks_per_node=2)
    deploy(site)
    site.wait_ranks(4, job)
    mark = f"step-ended-by-{how.replace(' ', '-')}"
    script = program(site, mark, "trap '' TERM\nsleep 300 &\nwait\nsleep 300\n")
    marks = site.marks("ended") / "runner"
    limit = {"time_limit": 4.0} if how == "time limit" else {}
    with Executor() as executor:
        options = executor.with_options(launch="step", ranks=4, **limit)
        future = options.submit("stepping.runner", ["bash", script], str(marks))
        wait(lambda: len(running(cluster, mark)) >= 4, 40, lambda: site.said(job))
        before = set(left(cluster, mark))
        if how == "cancel":
            assert future.cancel()
        elif how == "runner":
            for node in cluster.nodes:
                for pid in cluster.node_pids(node, "runner/child.py"):
                    if b"stepping" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                        os.kill(pid, signal.SIGKILL)
            wait(lambda: not before & set(left(cluster, mark)), 20, lambda: f"{left(cluster, mark)} {site.said(job)}")
            wait(lambda: bool(left(cluster, mark)), 30, "it is tried again")
            assert future.cancel()
    began = time.monotonic()
    wait(lambda: not left(cluster, mark), 30, lambda: f"{left(cluster, mark)}\n{site.said(job)}")
    assert time.monotonic() - began < 20
    wait(lambda: given(site) == 0, 20, lambda: f"{site.nodes()}")
    wait(lambda: "pyfi-step" not in steps(cluster), 40, lambda: steps(cluster))
    assert cluster.job_state(job) == "RUNNING"
    assert call(site, "run", "echo well", job=job, ranks=4)["stdout"] == "well\n" * 4


def running(cluster: Cluster, mark: str) -> list[tuple[str, int]]:
    """Programs of a step, without its launcher."""
    return [(node, pid) for node, pid in left(cluster, mark) if _is_bash(pid)]


def _is_bash(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "bash\n"
    except OSError:
        return False


def steps(cluster: Cluster) -> str:
    return str(cluster.run(["squeue", "--steps", "--noheader", "--format=%i %j"], 20).stdout)


@pytest.mark.parametrize("whose", ["leader", "other"])
def test_the_loss_of_a_node_ends_the_step_and_it_is_tried_again(site: Site, whose: str) -> None:
    """The agent is killed of the node where the function runs, or of one that only lends its ranks: the step ends
    everywhere and is tried on other nodes."""
    cluster = site.cluster
    job = site.up(nodes=3, ntasks_per_node=2)
    deploy(site)
    site.wait_ranks(6, job)
    script = program(site, "step-of-lost-node", "sleep 8; echo $SLURMD_NODENAME\n")
    marks = site.marks("lost") / "runner"
    with Executor() as executor:
        future = executor.with_options(launch="step", ranks=4).submit("stepping.runner", ["bash", script], str(marks))
        wait(lambda: len(running(cluster, script)) == 4, 40, lambda: site.said(job))
        leader = marks.read_text().split()[1]
        before = set(running(cluster, script))
        others = {node for node, _ in before} - {leader}
        lost = leader if whose == "leader" else sorted(others)[0]
        for pid in cluster.node_pids(lost, "pyfi_hpc.hosts.agent"):
            if "srun" not in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGKILL)
        wait(lambda: not before & set(left(cluster, script)), 20, lambda: f"{left(cluster, script)}\n{site.said(job)}")
        found = future.result(90)
    assert found["returncode"] == 0, (found["stderr"], lost, marks.read_text(), site.said(job))
    assert lost not in found["stdout"], (found, lost)
    assert len(found["stdout"].split()) == 4
    wait(lambda: not left(cluster, script), 20, lambda: f"{left(cluster, script)}")


def test_what_srun_says_is_in_the_error(site: Site) -> None:
    """A plugin that Slurm does not know: its words are the error of the task."""
    job = site.up(nodes=1, ntasks_per_node=2)
    deploy(site)
    site.wait_ranks(2, job)
    with Executor() as executor:
        options = executor.with_options(launch="step", ranks=2)
        future = options.submit("stepping.run", ["/no/such/program"], check=True)
        with pytest.raises(RuntimeError, match="no program /no/such/program"):
            future.result(60)
        with pytest.raises(RuntimeError, match=r"could not be started: srun: (?s:.*)no-such-plugin"):
            options.submit("stepping.with_plugin", "no-such-plugin", ["true"]).result(60)
