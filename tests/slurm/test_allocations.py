"""Durable tasks on real allocations: sbatch, agents, MPI ranks, an own ledger; losses, walltimes, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from slurm_site import ROOT, Site, inside_pid, node_ranks, ours, wait

from pyfi_hpc import Executor
from pyfi_hpc.adapters.slurm import AllocationRequest
from pyfi_hpc.errors import BrokerHeld, SettingsError, SlurmRefused
from pyfi_hpc.hosts import allocation, instance
from pyfi_hpc.ledger import embedded

pytestmark = pytest.mark.slurm


def test_digits_on_sixteen_ranks(site: Site) -> None:
    """The shipped model selection on 4 nodes with 4 ranks each: the whole grid, the right answer, all ranks used."""
    job = site.up(nodes=4, ntasks_per_node=4)
    site.deploy(ROOT / "examples" / "digits")
    site.wait_ranks(16, job)
    run = [sys.executable, str(ROOT / "examples" / "digits" / "run.py")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr + site.said(job)
    accuracy = float(done.stdout.partition("accuracy: ")[2].partition("%")[0])
    assert accuracy > 97
    fits = max(site.ask("jobs", {"limit": 4})["rows"], key=lambda row: int(row["tasks"]))
    calls = site.calls(fits["job"])
    assert len(calls) == int(done.stdout.partition("best of ")[2].partition(":")[0])
    assert {(call["state"], call["attempt"]) for call in calls} == {("COMPLETED", 1)}
    assert {call["node"].split("/")[0] for call in calls} == set(site.cluster.nodes)
    assert {call["rank"] for call in calls} == set(range(16))


def test_rank_and_node_lost_in_a_map(site: Site) -> None:
    """SIGKILL of a rank and a node set DOWN while 400 tasks run: each completes once, theirs at attempt 2 elsewhere."""
    cluster, marks = site.cluster, site.marks("lost")
    job = site.up(nodes=4, ntasks_per_node=4)
    site.wait_ranks(16, job)
    hit, gone = cluster.nodes[1], cluster.nodes[3]
    executor = Executor()
    # long ones first, so that every rank surely runs one when it is hit
    seconds = [3.0] * 32 + [0.05] * 368
    results = executor.map("naps.nap", [str(marks)] * 400, range(400), seconds, chunksize=40, timeout=60)
    wait(lambda: len(list(marks.glob("*-1"))) >= 16, 30, lambda: site.said(job))
    time.sleep(1.1)  # the next beat tells the broker what runs; what began after it is not known as an attempt
    victim = node_ranks(cluster, hit)[0]
    inner = str(inside_pid(victim))
    os.kill(victim, signal.SIGKILL)
    cluster.node_down(gone)
    done = list(results)
    assert [number for number, _, _ in done] == list(range(400))
    calls = site.calls(site.last_job())
    assert [call["state"] for call in calls] == ["COMPLETED"] * 400
    # who needed a second attempt began the first one on the rank or the node that died, and ended elsewhere
    again = [number for number, _, attempt in done if attempt == 2]
    assert {call["index"] for call in calls if call["attempt"] == 2} == set(again)
    began = {number: (marks / f"{number}-1").read_text().split() for number in again}
    assert all(node == gone or [node, pid] == [hit, inner] for node, pid in began.values()), began
    assert len(again) >= 5  # one of the rank, one of each rank of the node
    assert gone not in {done[number][1] for number in again}
    assert {attempt for _, _, attempt in done} == {1, 2}
    # the rank is replaced, the node is not: Slurm has taken it
    live = {node["name"].split("/")[0]: node["ranks"] for node in site.nodes()}
    assert gone not in live
    wait(lambda: {n["name"].split("/")[0]: n["ranks"] for n in site.nodes()}.get(hit) == 4, 15, str(site.nodes()))
    assert victim not in node_ranks(cluster, hit)


def test_two_allocations_feed_one_broker(site: Site) -> None:
    """One allocation by `pyfi up --slurm`, one by sbatch of the shipped script: both run tasks of one map."""
    first = site.up(nodes=2, ntasks_per_node=2)
    shared = site.cluster.shared
    second = site.by_hand("cpu.sbatch", "--nodes=2", "--ntasks-per-node=3", f"--output={shared}/pyfi-%j.out")
    site.wait_ranks(4, first)
    site.wait_ranks(6, second)
    marks = site.marks("two")
    executor = Executor()
    done = list(executor.map("naps.nap", [str(marks)] * 100, range(100), [0.1] * 100, timeout=60))
    assert {node for _, node, _ in done} == set(site.cluster.nodes)
    calls = site.calls(site.last_job())
    assert {call["node"].split("/")[1] for call in calls} == {str(first), str(second)}


def test_drain_gives_the_rest_to_the_next_allocation(site: Site) -> None:
    """USR1 as before a walltime: what runs ends there, the rest runs in the allocation that waited; one attempt each."""  # noqa: E501
    cluster, marks = site.cluster, site.marks("drain")
    first = site.up(nodes=4, ntasks_per_node=4)
    site.wait_ranks(16, first)
    second = site.up(nodes=4, ntasks_per_node=2)
    executor = Executor()
    results = executor.map("naps.nap", [str(marks)] * 120, range(120), [1.0] * 48 + [0.05] * 72, timeout=60)
    wait(lambda: len(list(marks.glob("*-1"))) >= 20, 30, lambda: site.said(first))
    assert cluster.job_state(second) == "PENDING"
    cluster.run(["scancel", "--batch", "--signal=USR1", str(first)])
    assert cluster.wait_job(first, "COMPLETED", "FAILED", timeout=30) == "COMPLETED", site.said(first)
    done = list(results)
    assert {attempt for _, _, attempt in done} == {1}
    calls = site.calls(site.last_job())
    by_job = [call["node"].split("/")[1] for call in calls]
    assert by_job.count(str(first)) >= 20
    assert by_job.count(str(second)) >= 60


def test_walltime_gives_what_ran_to_the_next_allocation(site: Site) -> None:
    """Slurm ends an allocation at its time limit under tasks of minutes: they run again in the next, uncharged."""
    cluster, marks = site.cluster, site.marks("walltime")
    here = f"--nodelist={','.join(cluster.nodes[:2])}"
    first = site.up(nodes=2, ntasks_per_node=2, time="1", drain_s=1, extra=(here,))
    site.wait_ranks(4, first)
    second = site.up(nodes=2, ntasks_per_node=2, extra=(here,))
    executor = Executor()
    results = executor.map("naps.nap", [str(marks)] * 12, range(12), [300.0] * 4 + [0.1] * 8, timeout=60)
    wait(lambda: all((marks / f"{n}-1").exists() for n in range(4)), 30, lambda: site.said(first))
    # Slurm looks at time limits every 30 s
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1))
    cluster.run(["scontrol", "update", f"jobid={first}", f"endtime={end}"])
    state = cluster.wait_job(first, "TIMEOUT", "FAILED", "COMPLETED", timeout=50)
    assert state == "TIMEOUT", site.said(first)
    assert "draining before the walltime" in site.said(first)
    done = list(results)
    assert [attempt for _, _, attempt in done] == [2] * 4 + [1] * 8
    job = site.last_job()
    for index in range(4):
        ended = [(a["outcome"], a["node"].split("/")[1]) for a in site.attempts(job, index)]
        assert ended == [("WALLTIME", str(first)), ("COMPLETED", str(second))]


def test_broker_in_the_job(person: Site) -> None:
    """--broker=job: nothing runs on the login node; the ledger goes on in the next allocation, on another node."""
    cluster = person.cluster
    first = person.up(nodes=2, ntasks_per_node=2, broker="job")
    wait(person.settings.access_file.exists, 60, lambda: person.said(first))
    person.wait_ranks(4, first)
    assert instance.find(person.settings, "broker") is None
    assert any("hosts.broker" in line for line in ours(cluster)[cluster.nodes[0]])
    person.deploy_naps()
    marks = person.marks("in-job")
    executor = Executor()
    done = list(executor.map("naps.nap", [str(marks)] * 20, range(20), [0.05] * 20, timeout=60))
    assert {node for _, node, _ in done} == set(cluster.nodes[:2])
    person.down()
    assert cluster.wait_job(first, "COMPLETED", "FAILED", timeout=20) == "COMPLETED", person.said(first)
    assert ours(cluster) == {}

    second = person.up(nodes=1, ntasks_per_node=2, broker="job", extra=(f"--nodelist={cluster.nodes[2]}",))
    person.wait_ranks(2, second)
    (row,) = person.ask("jobs")["rows"]
    assert (row["tasks"], row["states"]) == (20, {"COMPLETED": 20})
    executor = Executor()
    assert executor.submit("naps.nap", str(marks), 99, 0.01).result(30)[1] == cluster.nodes[2]


def test_down_ends_the_allocations_in_order(site: Site) -> None:
    """`pyfi down` with a running and a waiting allocation: both end, no process and no file stays on the nodes."""
    cluster = site.cluster
    running = site.up(nodes=4, ntasks_per_node=2)
    site.wait_ranks(8, running)
    waiting = site.up(nodes=4, ntasks_per_node=4)
    marks = site.marks("down")
    executor = Executor()
    future = executor.submit("naps.nap", str(marks), 1, 60.0)
    wait(lambda: (marks / "1-1").exists(), 20)
    stopped = site.down()
    assert f"allocation {waiting}" in stopped
    assert cluster.wait_job(running, "COMPLETED", "FAILED", "CANCELLED", timeout=20) == "COMPLETED", site.said(running)
    assert cluster.job_state(waiting) == "CANCELLED"
    assert ours(cluster) == {}
    scratch = site.settings.scratch
    assert not list(scratch.glob("**/*.sock")), list(scratch.glob("**/*"))
    assert not future.done() or future.exception() is not None


def test_refused_request_leaves_nothing(person: Site) -> None:
    """Slurm refuses: its own words are in the error, and ledger and broker that were started for it have ended."""
    with pytest.raises(SlurmRefused, match="Invalid --time"):
        person.up(time="soon")
    assert instance.find(person.settings, "broker") is None
    assert embedded.status(person.settings) is None
    assert person.down() == []


def test_loopback_is_refused(person: Site) -> None:
    """A broker on loopback, asked for or running: the error says that nodes cannot reach it, nothing is submitted."""
    with pytest.raises(SettingsError, match="cannot reach 127"):
        instance.start_allocation(replace(person.settings, bind="127.0.0.1"), AllocationRequest())
    instance.start_ledger(person.settings)
    instance.start_broker(person.settings)
    with pytest.raises(SettingsError, match="pyfi down"):
        person.up()
    assert person.cluster.run(["squeue", "-h"]).stdout == ""


def test_two_brokers_are_refused(site: Site) -> None:
    """--broker=job while a broker runs: refused, names it."""
    with pytest.raises(BrokerHeld, match="has a broker already"):
        site.up(broker="job")
    assert allocation.noted(site.settings) == []
