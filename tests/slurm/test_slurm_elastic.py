"""Elastic allocations on a real Slurm: asked for from the backlog, given back, held to their limits, found again."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_yard
from slurm_site import Site, wait
from slurm_yard import INTERVAL_S, Yard, submitted

from pyfi_hpc import Executor
from pyfi_hpc.errors import Refused
from pyfi_hpc.hosts import allocation, elastic, instance, pools
from pyfi_hpc.model.allocations import mark_of

pytestmark = pytest.mark.slurm


@pytest.fixture
def yard(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """An instance with ledger and broker, no pool and no allocation; everything of it has ended after the test."""
    monkeypatch.setenv("PYFI_BATCH_INTERVAL_S", str(INTERVAL_S))
    yield Yard(site)
    slurm_yard.clear(site)


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
    assert all(yard.site.cluster.job_state(int(key)) == "COMPLETED" for key in submitted(yard.log("batch")))
    wait(lambda: allocation.noted(site.settings) == [], 10, yard.story)
    assert "without work for" in yard.log("batch")
    assert yard.pool("batch")["allocations"] == []


def test_two_partitions_feed_one_queue(yard: Yard) -> None:
    """A pool in each of two partitions, one allocation each: both run tasks of one map."""
    site, marks = yard.site, yard.site.marks("two")
    yard.add("batch", "--max", "1", "-p", "batch", "--ntasks-per-node", "2")
    yard.add("short", "--max", "1", "-p", "short", "--ntasks-per-node", "2")
    results = Executor().map("naps.nap", [str(marks)] * 80, range(80), [0.5] * 80, timeout=120)
    assert len(list(results)) == 80, yard.story()
    partitions = {line.split()[1] for line in yard.queue()}
    assert partitions == {"batch", "short"}, yard.story()
    ran = {call["node"].split("/")[1] for call in site.calls(site.last_job())}
    assert ran == set(submitted(yard.log("batch")) + submitted(yard.log("short"))), yard.story()
    assert len(ran) == 2


def test_calls_that_need_gpus_ask_the_pool_that_has_some(yard: Yard) -> None:
    """Ten calls of one GPU and two pools, the first without GPUs: only the second asks."""
    site, marks = yard.site, yard.site.marks("gpus")
    yard.add("plain", "--max", "2", "--ntasks-per-node", "2")
    yard.add("gpus", "--max", "2", "--ntasks-per-node", "2", "--gres", "gpu:2")
    wanting = Executor().with_options(gpus=1)
    futures = [wanting.submit("naps.nap", str(marks), number, 0.5) for number in range(10)]
    assert [future.result(90)[2] for future in futures] == [1] * 10, yard.story()
    assert submitted(yard.log("gpus")), yard.story()
    assert not submitted(yard.log("plain")), yard.story()
    ran = {row["node"].split("/")[1] for row in site.calls(site.last_job())}
    assert ran <= set(submitted(yard.log("gpus"))), yard.story()


def test_a_refused_submission_backs_off_and_tells_slurms_words(yard: Yard) -> None:
    """A partition that is not there: tries after 3 and 6 s, Slurm's words in why and log; put right, it runs."""
    future = Executor().submit("naps.nap", str(yard.site.marks("refused")), 1, 0.1)
    yard.add("wrong", "-p", "nosuch")
    wait(lambda: yard.log("wrong").count("tried again") >= 3, 30, yard.story)
    lines = [line for line in yard.log("wrong").splitlines() if "tried again" in line]
    assert all("nvalid partition" in line for line in lines), yard.story()
    assert [re.sub(r".* in (\d+) s", r"\1", line) for line in lines[:3]] == ["3", "6", "12"]

    def why() -> str:
        return str(yard.pyfi("alloc", "why", "wrong")["why"])

    wait(lambda: "3 times in a row" in why() and "nvalid partition" in why(), 5, why)
    assert yard.pool("wrong")["state"] == "backs off"
    assert yard.queue() == []
    yard.add("wrong", "-p", "batch")
    assert future.result(60)[0] == 1, yard.story()


def test_a_killed_process_and_its_jobs_and_orphans(yard: Yard) -> None:
    """kill -9 and a start: the jobs are kept, nobody else's are touched, a job of a pool that is gone is ended."""
    site, cluster = yard.site, yard.site.cluster
    yard.add("keep", "--min", "1", "--max", "1")
    wait(lambda: bool(yard.pool("keep")["allocations"]) and yard.pool("keep")["ranks"] == 1, 60, yard.story)
    (mine,) = submitted(yard.log("keep"))
    os.kill(site.pid(instance.ELASTIC), signal.SIGKILL)
    wait(lambda: instance.find(site.settings, instance.ELASTIC) is None, 5)
    assert yard.pool("keep")["state"] == "no process"
    # as if it had been killed between sbatch and the note, and had had another pool before
    (site.settings.instance_dir / "allocations" / f"{mine}.json").unlink()
    script = "#!/bin/bash\nsleep 300\n"
    tag = pools.tag(site.settings)
    gone = cluster.sbatch(script, f"--comment={mark_of(tag, 'gone')}")
    other = cluster.sbatch(script, f"--comment={mark_of('0123456789ab', 'keep')}")
    yard.pyfi("alloc", "start")
    wait(lambda: cluster.job_state(gone) == "CANCELLED", 20, yard.story)
    assert "its pool is not there any more" in yard.log("gone")
    assert "adopted" in yard.log("keep")
    wait(lambda: [note.key for note in allocation.noted(site.settings)] == [mine], 10, yard.story)
    time.sleep(2 * INTERVAL_S)
    assert cluster.job_state(other) == "RUNNING" and cluster.job_state(int(mine)) == "RUNNING"
    assert submitted(yard.log("keep")) == [mine]
    with pytest.raises(Refused, match="another process"):
        elastic.run(site.settings)
    yard.pyfi("alloc", "rm", "keep")
    wait(lambda: cluster.job_state(int(mine)) == "COMPLETED", 30, yard.story)
    wait(lambda: instance.find(site.settings, instance.ELASTIC) is None, 10, yard.story)


def test_slurm_is_asked_once_an_interval(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pools with allocations for 15 s: squeue is called at most once a second, for all of them together."""
    calls = _wrap(yard, monkeypatch, "squeue")
    yard.add("one", "--min", "1", "-p", "batch")
    yard.add("two", "--min", "1", "--max", "2", "-p", "short")
    wait(lambda: len(yard.queue()) == 2, 30, yard.story)
    before = time.time()
    time.sleep(15)
    # the batch scripts ask on their nodes, about their own job
    times = [float(line.split()[0]) for line in calls.read_text().splitlines() if "--states=all" in line]
    mine = [at for at in times if at > before]
    assert 8 <= len(mine) <= 16
    assert all(after - at > 0.7 * INTERVAL_S for at, after in zip(mine, mine[1:], strict=False)), mine


def _wrap(yard: Yard, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """Commands of Slurm that first write when and with what they are called; the file."""
    folder = yard.site.cluster.shared / "wrapped"
    folder.mkdir(exist_ok=True)
    calls = folder / "calls"
    calls.write_text("")
    for name in names:
        first = f'#!/bin/bash\necho "$EPOCHREALTIME {name} $*" >> {calls}\n'
        (folder / name).write_text(first + f'exec /usr/bin/{name} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


def test_slurms_words_for_an_allocation_that_waits(yard: Yard) -> None:
    """More time than the partition gives: `pyfi why` and `pyfi alloc why` tell Slurm's reason and what it means."""
    yard.pyfi("alloc", "add", "long", "--min", "1", "-p", "short", "-t", "60")
    wait(lambda: len(yard.queue()) == 1, 20, yard.story)
    (key,) = submitted(yard.log("long"))

    def told() -> str:
        return " ".join(yard.pyfi("why", key)["allocation"]["because"])

    wait(lambda: "PartitionTimeLimit" in told(), 20, lambda: told() + yard.story())
    assert "more time than its partition gives" in told() and "the pool long has asked for it" in told()
    wait(lambda: "PartitionTimeLimit" in yard.pool("long")["allocations"][0]["words"], 10, yard.story)
    text = yard.site.cluster.run(
        [sys.executable, "-m", "pyfi_hpc.cli.main", "alloc", "why", key], env=yard.site.environment
    ).stdout
    assert f"allocation {key}  PENDING" in text and "Slurm does not say when it starts" in text


def test_a_dry_run_submits_nothing(yard: Yard) -> None:
    """With a task that waits: it tells that one would be asked for, the script, and what Slurm says of it."""
    Executor().submit("naps.nap", str(yard.site.marks("dry")), 1, 0.1)
    wait(lambda: yard.site.ask("info")["broker"]["ready_tasks"] == 1, 10)
    told = yard.pyfi("alloc", "add", "dry", "--max", "3", "-p", "short", "-t", "5", "--dry-run")
    assert told["submits"] == 1 and "no rank is there for it" in " ".join(told["why"]), told
    assert "#SBATCH --partition=short" in told["script"]
    assert "to start at" in told["words"] and "short" in told["words"]
    assert yard.queue() == [] and pools.stored(yard.site.settings) == {}
    assert instance.find(yard.site.settings, instance.ELASTIC) is None


def test_the_controller_is_away_for_a_while(yard: Yard) -> None:
    """slurmctld is killed: nothing is asked for, what runs is kept; it comes back, and so does all else."""
    cluster, marks = yard.site.cluster, yard.site.marks("away")
    yard.add("batch", "--max", "2", "--idle", "60")
    first = Executor().submit("naps.nap", str(marks), 1, 0.1)
    assert first.result(60)[0] == 1, yard.story()
    cluster.kill("slurmctld")
    try:
        wait(lambda: "does not answer" in str(yard.pool("batch")["why"]), 60, yard.story)
        assert Executor().submit("naps.nap", str(marks), 2, 0.1).result(20)[0] == 2
        assert len(yard.pool("batch")["allocations"]) == 1
    finally:
        cluster.start("slurmctld")
    results = Executor().map("naps.nap", [str(marks)] * 20, range(10, 30), [2.0] * 20, timeout=120)
    wait(lambda: len(submitted(yard.log("batch"))) == 2, 90, yard.story)
    assert len(list(results)) == 20


def test_down_ends_it_all_and_up_goes_on(person: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pyfi alloc add` starts ledger and broker; `pyfi down` ends all; `pyfi up` asks again for what is stored."""
    monkeypatch.setenv("PYFI_BATCHINTERVAL_S", str(INTERVAL_S))
    yard = Yard(person)
    yard.add("kept", "--min", "1")
    wait(lambda: len(yard.queue("RUNNING")) == 1, 30, yard.story)
    stopped = yard.pyfi("down")["stopped"]
    assert instance.ELASTIC in stopped and "broker" in stopped
    assert yard.queue() == [] and allocation.noted(person.settings) == []
    yard.pyfi("up", "-n", "1")
    wait(lambda: len(yard.queue("RUNNING")) == 1, 30, yard.story)
    wait(lambda: yard.pool("kept")["ranks"] == 1, 60, yard.story)
    yard.pyfi("down")
    pools.remove(person.settings, "kept")
