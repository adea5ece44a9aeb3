"""F: nodes, signals, walltime and Slurm's own daemons, in the middle of a load on a real Slurm cluster."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from instance_fixture import until
from invariants import Stopwatch, check
from ledger_fixture import administer
from load import LOST, Load
from slurm_site import Site

from pyfi_hpc import Executor
from pyfi_hpc.errors import SlurmBusy, SlurmRefused
from pyfi_hpc.ledger import embedded
from pyfi_hpc.model.states import Cause

pytestmark = pytest.mark.slurm


@pytest.fixture
def yard(site: Site) -> Iterator[Site]:
    """A person on the login node with the functions of the loads deployed; Slurm is in order before and after."""
    site.deploy_trouble()
    yield site
    site.cluster.start("munged")
    site.cluster.start("slurmctld")


def live(site: Site) -> set[str]:
    """Nodes that the broker knows, as NODE/ALLOCATION."""
    return {node["name"] for node in site.nodes()}


def causes(site: Site) -> Counter[Cause]:
    """Why attempts of the newest job that were followed by others ended."""
    query = "SELECT cause FROM attempt_failed WHERE job = %s"
    rows = administer(embedded.connect_url(site.settings), query, site.last_job())
    return Counter(Cause(cause) for (cause,) in rows)


def begin_again(site: Site, job: int, count: int) -> None:
    """See that the job is requeued, and let it begin elsewhere: on its ``count`` old nodes it waits two minutes."""
    cluster = site.cluster
    cluster.wait_job(job, "PENDING", timeout=30)
    gone = "excnodelist=" + ",".join(cluster.nodes[:count])
    cluster.run(["scontrol", "update", f"jobid={job}", gone])
    until(lambda: not any(cluster.node_pids(node, "slurmstepd") for node in cluster.nodes), 30.0, "all steps have gone")
    cluster.run(["scontrol", "update", f"jobid={job}", "starttime=now"])
    cluster.wait_job(job, "RUNNING", timeout=40)


def restarts(site: Site, job: int) -> int:
    text = site.cluster.run(["scontrol", "-o", "show", "job", str(job)]).stdout
    return int(text.partition(" Restarts=")[2].split()[0])


def two_allocations(site: Site) -> tuple[int, int]:
    """Two allocations of one node and two ranks each: their ids, by node."""
    here = [f"--nodelist={node}" for node in site.cluster.nodes[:2]]
    jobs = [site.up(nodes=1, ntasks_per_node=2, extra=(where,)) for where in here]
    for job in jobs:
        site.wait_ranks(2, job)
    return jobs[0], jobs[1]


def ends_soon(site: Site, job: int, seconds: float) -> None:
    """Move the end of an allocation close; Slurm looks at time limits every 30 s."""
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
    site.cluster.run(["scontrol", "update", f"jobid={job}", f"endtime={end}"])


def test_f1_a_node_is_set_down(yard: Site) -> None:
    """One of three nodes DOWN: --no-kill, so Slurm kills there at once; the lease tells, the others do the rest."""
    cluster = yard.cluster
    job = yard.up(nodes=3, ntasks_per_node=2)
    yard.wait_ranks(6, job)
    load = Load(yard, yard.marks("f1"), count=300, seconds=0.1)
    watch = Stopwatch()
    cluster.node_down(cluster.nodes[2])
    until(lambda: f"{cluster.nodes[2]}/{job}" not in live(yard), 10.0, "the node is forgotten")
    watch.tell("a node that Slurm has killed is noticed", 5)
    load.ends_well(again_max=2 * LOST)
    assert Cause.ERROR not in causes(yard)
    assert live(yard) == {f"{node}/{job}" for node in cluster.nodes[:2]}


def test_f1_the_only_node_is_set_down_and_its_job_comes_back(yard: Site) -> None:
    """An allocation of one node, DOWN: TERM is heard and all handed back; Slurm requeues the job, and it rejoins."""
    cluster = yard.cluster
    job = yard.up(nodes=1, ntasks_per_node=3)
    yard.wait_ranks(3, job)
    load = Load(yard, yard.marks("f1b"), count=100, seconds=0.1)
    watch = Stopwatch()
    cluster.node_down(cluster.nodes[0])
    until(lambda: not live(yard), 10.0, "the node has left")
    watch.tell("all grants handed back", 1)
    begin_again(yard, job, 1)
    yard.wait_ranks(3, job)
    watch.tell("the requeued job has joined", 60)
    load.ends_well(again_max=3 * LOST)
    assert set(causes(yard)) <= {Cause.WALLTIME, Cause.STALE}
    assert restarts(yard, job) == 1


def test_f1_the_first_node_is_set_down(yard: Site) -> None:
    """The node of the batch script DOWN: the allocation ends with it; the tasks go on in the next one."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f1c"), count=100, seconds=0.1)
    watch = Stopwatch()
    cluster.node_down(cluster.nodes[0])
    until(lambda: not live(yard), 15.0, "both nodes have left")
    watch.tell("grants of both nodes are free", 5)
    assert cluster.job_state(job) == "FAILED"
    after = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, after)
    load.ends_well(again_max=4 * LOST)


@pytest.mark.parametrize("how", ["USR1", "TERM", "CONT+TERM"])
def test_f2_an_allocation_is_signalled(yard: Site, how: str) -> None:
    """scancel in three ways to one of two allocations: it drains or leaves at once; the other does the rest."""
    cluster = yard.cluster
    first, second = two_allocations(yard)
    load = Load(yard, yard.marks(f"f2-{how}"), count=200, seconds=0.1)
    watch = Stopwatch()
    cluster.run(["scancel", *([] if how == "CONT+TERM" else [f"--signal={how}"]), str(first)])
    until(lambda: not any(name.endswith(f"/{first}") for name in live(yard)), 15.0, "its nodes have left")
    watch.tell(f"{how}: grants handed back", 1)
    # drained: what ran has ended there; else what the ranks had runs again, and nothing more
    load.ends_well(again_max=0 if how == "USR1" else 2 * LOST)
    assert set(causes(yard)) <= {Cause.WALLTIME}
    assert live(yard) == {f"{cluster.nodes[1]}/{second}"}
    cluster.wait_job(first, "COMPLETED", "CANCELLED", timeout=20)


def test_f3_nothing_is_begun_before_the_walltime_that_cannot_end(yard: Site) -> None:
    """An allocation drains before its end: nothing begins there any more; the rest is free while long ones run on."""
    marks = yard.marks("f3")
    job = yard.up(nodes=1, ntasks_per_node=2, time="2", drain_s=60)
    yard.wait_ranks(2, job)
    seconds = [300.0, 300.0] + [0.1] * 20
    results = Executor().map("naps.nap", [str(marks)] * 22, range(22), seconds, timeout=200)
    until(lambda: all((marks / f"{n}-1").exists() for n in range(2)), 30.0, "the long ones run")
    ends_soon(yard, job, 35)
    until(lambda: "draining before the walltime" in yard.said(job), 70.0, "it drains")
    before = len(list(marks.glob("*-1")))
    held = lambda: [(node["draining"], node["outstanding"]) for node in yard.nodes()]  # noqa: E731
    until(lambda: held() == [(True, 2)], 5.0, f"the rest is handed back: {held()}")
    assert yard.cluster.wait_job(job, "TIMEOUT", "COMPLETED", "FAILED", timeout=90) == "TIMEOUT"
    assert len(list(marks.glob("*-1"))) == before == 2
    watch = Stopwatch()
    yard.wait_ranks(2, yard.up(nodes=1, ntasks_per_node=2))
    assert [attempt for _, _, attempt in results] == [2, 2] + [1] * 20
    watch.tell("the next allocation has done it all", 30)
    assert causes(yard) == {Cause.WALLTIME: 2}
    check(yard)


def test_f3_one_of_two_allocations_ends_by_walltime(yard: Site) -> None:
    """A short and a long allocation feed one broker; the short one ends in the middle: all goes on in the long one."""
    marks = yard.marks("f3b")
    here = [f"--nodelist={node}" for node in yard.cluster.nodes[:2]]
    short = yard.up(nodes=1, ntasks_per_node=2, time="1", drain_s=1, extra=(here[0],))
    long = yard.up(nodes=1, ntasks_per_node=2, time="10", extra=(here[1],))
    yard.wait_ranks(2, short)
    yard.wait_ranks(2, long)
    # so many long ones that both allocations run some when the short one ends; a retry is not charged to the user
    count = 200
    results = Executor(retries=0).map("naps.nap", [str(marks)] * count, range(count), [0.8] * count, timeout=200)
    until(lambda: len(list(marks.glob("*-1"))) >= 8, 30.0, "both run some")
    ends_soon(yard, short, 1)
    assert yard.cluster.wait_job(short, "TIMEOUT", "COMPLETED", "FAILED", timeout=90) in ("TIMEOUT", "COMPLETED")
    watch = Stopwatch()
    done = list(results)
    watch.tell("the long one has done the rest", 60)
    assert [number for number, _, _ in done] == list(range(count))
    calls = yard.calls(yard.last_job())
    assert {call["state"] for call in calls} == {"COMPLETED"}
    assert {call["node"].split("/")[1] for call in calls} == {str(short), str(long)}
    assert set(causes(yard)) <= {Cause.WALLTIME}
    check(yard)


def test_f4_slurmd_is_killed(yard: Site) -> None:
    """SIGKILL of a node's slurmd: its ranks and its lease live on, nothing runs again; nor when slurmd is back."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f4"), count=200, seconds=0.1)
    cluster.kill_slurmd(cluster.nodes[1])
    load.reached(120)
    assert len(live(yard)) == 2
    cluster.node_resume(cluster.nodes[1])
    load.ends_well(again_max=0)


def test_f4_a_node_is_lost_with_its_slurmd(yard: Site) -> None:
    """No slurmd, no network: the lease tells long before Slurm; the zombies end themselves, and settle nothing."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f4b"), count=300, seconds=0.1)
    node = cluster.nodes[1]
    watch = Stopwatch()
    cluster.kill_slurmd(node)
    cluster.cut_off(node)
    until(lambda: f"{node}/{job}" not in live(yard), 10.0, "the node is forgotten")
    watch.tell("the lost node is noticed", 5)
    assert cluster.job_state(job) == "RUNNING"
    done = len(load.got)
    load.reached(done + 20)
    watch.tell("its tasks run elsewhere", 8)
    cluster.plug_in(node)
    # the zombie agent is not told by Slurm that it is lost: the broker lets it in again, and drops what it held
    until(lambda: f"{node}/{job}" in live(yard), 20.0, "it is let in again")
    load.ends_well(again_max=20)
    cluster.node_resume(node)


def test_f5_slurmctld_is_killed_and_restarted(yard: Site) -> None:
    """No controller for seconds, then one with the state it saved: tasks do not notice, nothing runs again."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    begun = time.time()
    cluster.run(["scontrol", "update", f"jobid={job}", "comment=known"])
    until(lambda: (cluster.state / "ctld" / "job_state").stat().st_mtime > begun, 30.0, "the job is in the saved state")
    load = Load(yard, yard.marks("f5"), count=300, seconds=0.1)
    cluster.kill("slurmctld")
    load.reached(150)
    watch = Stopwatch()
    cluster.start("slurmctld")
    watch.tell("slurmctld answers again", 10)
    load.ends_well(again_max=0)
    assert len(live(yard)) == 2
    assert cluster.job_state(job) == "RUNNING"


def test_f5_slurmctld_is_started_twice(yard: Site) -> None:
    """A second slurmctld ends the first and goes on with its state; one that cannot see it is refused the port."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f5c"), count=300, seconds=0.1)
    before, after = cluster.start_second()
    assert len(before) == len(after) == 1
    assert before != after
    assert "Address already in use" in cluster.start_blind_second()
    load.ends_well(again_max=0)
    assert len(live(yard)) == 2
    assert cluster.job_state(job) == "RUNNING"
    assert restarts(yard, job) == 0


def test_f5_slurmctld_comes_back_without_the_job(yard: Site) -> None:
    """Killed before it saved the job: it knows none, and its nodes end what runs; the tasks go on in the next one."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f5b"), count=400, seconds=0.1)
    cluster.kill("slurmctld")
    (cluster.state / "ctld" / "job_state").unlink(missing_ok=True)  # whether it was quick enough is not to matter
    (cluster.state / "ctld" / "job_state.old").unlink(missing_ok=True)
    # its numbers begin anew as well; a slurmd takes no job of a number that it has seen
    with (cluster.state / "slurm.conf").open("a") as conf:
        conf.write(f"FirstJobId={job + 100}\n")
    watch = Stopwatch()
    cluster.start("slurmctld")
    until(lambda: not live(yard), 60.0, "Slurm has ended the job that it does not know")
    watch.tell("the forgotten job has left", 30)
    after = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, after)
    load.ends_well(again_max=4 * LOST)
    assert Cause.ERROR not in causes(yard)


def test_f6_an_allocation_is_requeued(yard: Site) -> None:
    """scontrol requeue: the grants come back at once; the same job id comes again as another one, and goes on."""
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f6"), count=150, seconds=0.1)
    watch = Stopwatch()
    yard.cluster.run(["scontrol", "requeue", str(job)])
    until(lambda: not live(yard), 10.0, "both nodes have left")
    watch.tell("all grants handed back", 1)
    begin_again(yard, job, 2)
    yard.wait_ranks(4, job)
    watch.tell("the requeued job has joined", 60)
    load.ends_well(again_max=4 * LOST)
    assert set(causes(yard)) <= {Cause.WALLTIME, Cause.STALE}
    assert restarts(yard, job) == 1


def test_f7_an_allocation_never_starts(yard: Site) -> None:
    """All nodes drained: the tasks wait, `pyfi info` tells of the allocation and Slurm's reason; then they run."""
    cluster = yard.cluster
    for node in cluster.nodes:
        cluster.run(["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"])
    job = yard.up(nodes=2, ntasks_per_node=2)
    results = Executor().map("trouble.same", range(50), timeout=90)
    until(lambda: yard.ask("info")["broker"]["ready_tasks"] == 50, 10.0, "they wait")
    (row,) = yard.ask("jobs", unfinished=True)["rows"]
    assert row["reason"] == "NoNodes", row
    info = [sys.executable, "-m", "pyfi_hpc.cli.main", "info", "--json"]

    def told() -> dict[str, Any]:
        (found,) = json.loads(cluster.run(info, env=yard.environment).stdout)["allocations"]
        return found

    until(lambda: told()["reason"] not in ("", "Priority"), 20.0, "Slurm has looked at it")
    assert (told()["allocation"], told()["state"]) == (str(job), "PENDING")
    # Slurm says it in one of two ways, depending on which of its schedulers looked last
    assert any(word in told()["reason"].upper() for word in ("DRAINED", "UNAVAILABLENODES")), told()
    watch = Stopwatch()
    for node in cluster.nodes:
        cluster.node_resume(node)
    yard.wait_ranks(4, job)
    assert list(results) == list(range(50))
    watch.tell("nodes resumed, tasks done", 30)
    check(yard)


def test_f8_munge_is_down(yard: Site) -> None:
    """munged stopped: running allocations work on; a new one is refused, or gets no answer, until munge is back."""
    cluster = yard.cluster
    job = yard.up(nodes=2, ntasks_per_node=2)
    yard.wait_ranks(4, job)
    load = Load(yard, yard.marks("f8"), count=300, seconds=0.5)
    cluster.kill("munged")
    with pytest.raises((SlurmRefused, SlurmBusy), match="(?i)munge|authentication|credential|no answer"):
        yard.up(nodes=1)
    assert len(load.got) < load.count
    cluster.start("munged")
    load.ends_well(again_max=0)
    assert len(live(yard)) == 2
    yard.wait_ranks(1, yard.up(nodes=1))
