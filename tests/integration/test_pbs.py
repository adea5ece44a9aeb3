"""Elastic allocations under PBS: stand-in commands keep the queue and run the jobs; ranks, agents, tasks are real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pbs_stand_in
import pytest
from instance_fixture import Instance, until

from pyfi_hpc.adapters.pbs import Pbs, parse_qstat
from pyfi_hpc.adapters.pbs_script import render_pbs
from pyfi_hpc.errors import PbsMissing, PbsRefused, UsageError
from pyfi_hpc.hosts import allocation, instance, pools
from pyfi_hpc.model.allocations import AllocationRequest, JobSeen, Pool

_INTERVAL_S = 1.0


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PBS of stand-ins on PATH, with room for two jobs; no job of it is left."""
    folder = tmp_path / "pbs"
    monkeypatch.setenv("PATH", f"{pbs_stand_in.install(folder, slots=2)}:{os.environ['PATH']}")
    yield folder
    for job in jobs(folder).values():
        if job["state"] == "R":
            with pytest.raises(ProcessLookupError):
                os.killpg(job["pid"], signal.SIGKILL)


def jobs(folder: Path) -> dict[str, Any]:
    subprocess.run([folder / "bin" / "qselect", "-u", "x"], check=True, capture_output=True, timeout=20)
    file = folder / "jobs.json"
    return json.loads(file.read_text()) if file.exists() else {}


@pytest.fixture
def made(pbs: Path, instances: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance with ledger and broker and no ranks of its own."""
    monkeypatch.setenv("PYFI_BATCH_INTERVAL_S", str(_INTERVAL_S))
    one = instances(batch_interval_s=_INTERVAL_S)
    return one.up(ranks=0)


def begin(made: Instance, name: str, **given: Any) -> Pool:
    """Store a pool and see that it is served, as ``pyfi alloc add`` does."""
    settings = made.settings
    where = {"instance": settings.instance, "home": settings.home, "python": sys.executable, "time": "10"}
    output = str(settings.log_dir / "pyfi-%j.out")
    request = AllocationRequest(**{**where, "output": output, **given.pop("request", {})})
    given = {"idle_s": 3.0, "worth_s": 2.0, "added": time.time(), **given}
    pool = Pool(name=name, batch="pbs", request=request, **given)
    pools.store(settings, pool)
    with made._marked():
        instance.start_elastic(settings)
    return pool


def story(made: Instance, name: str) -> str:
    outputs = [file.read_text()[-2000:] for file in made.settings.log_dir.glob("*.OU")]
    return "\n".join([*pools.log(made.settings, name), *outputs, made.log("elastic")[-2000:]])


def test_tasks_run_in_an_allocation_of_pbs(made: Instance, pbs: Path) -> None:
    """qsub, an agent and two ranks by its script, tasks run; idle, the agent leaves and the job ends by itself."""
    begin(made, "work", max=1, request={"ntasks_per_node": 2})
    assert list(made.executor().map("trouble.same", range(20), timeout=60)) == list(range(20)), story(made, "work")
    (node,) = made.nodes()
    assert (node["allocation"], node["ranks"]) == ("1", 2)
    until(lambda: jobs(pbs)["1"]["state"] == "F", 30.0, story(made, "work"))
    assert jobs(pbs)["1"]["code"] == 0, story(made, "work")
    until(lambda: allocation.noted(made.settings) == [], 10.0, "it is forgotten")
    log = "\n".join(pools.log(made.settings, "work"))
    assert re.search(r"1 has joined with [12] ranks", log) and "without work for" in log  # the second may follow
    assert not any(" qdel " in line for line in (pbs / "calls").read_text().splitlines())


def test_two_nodes_are_two_agents(made: Instance, pbs: Path) -> None:
    """-N 2: the second agent is started by pbs_tmrsh; both run tasks, and both leave."""
    begin(made, "wide", min=1, max=1, request={"nodes": 2})
    until(lambda: len(made.nodes()) == 2 and all(n["ranks"] == 1 for n in made.nodes()), 60.0, story(made, "wide"))
    assert {node["name"].split("/")[1] for node in made.nodes()} == {"1"}
    assert "chunk1/1" in {node["name"] for node in made.nodes()}
    assert list(made.executor().map("trouble.same", range(20), timeout=60)) == list(range(20))
    pools.remove(made.settings, "wide")
    until(lambda: jobs(pbs)["1"]["state"] == "F", 30.0, story(made, "wide"))
    assert made.nodes() == []
    until(lambda: instance.find(made.settings, instance.ELASTIC) is None, 10.0, "nothing is left to see to")


def test_pbs_is_asked_once_an_interval_and_max_holds(made: Instance, pbs: Path) -> None:
    """Long work, --max 3 and room for two jobs: two run, one waits with PBS's words; one status query a second."""
    begin(made, "busy", min=3, max=3)
    until(lambda: [job["state"] for job in jobs(pbs).values()] == ["R", "R", "Q"], 40.0, story(made, "busy"))
    before = time.time()
    time.sleep(8)
    calls = [line.split() for line in (pbs / "calls").read_text().splitlines()]
    # the test's own calls are for user x
    asked = [float(line[0]) for line in calls if line[1] == "qselect" and line[3] != "x" and float(line[0]) > before]
    assert 4 <= len(asked) <= 9
    told = allocation.why(made.settings, "3")
    assert told is not None and "PBS says: queued (Not Running: Insufficient amount of resource" in str(told["because"])
    assert len(jobs(pbs)) == 3
    stopped = instance.stop(made.settings, made._shut_down)
    assert {"allocation 3", instance.ELASTIC} <= set(stopped)  # the others end with their agents
    assert {job["state"] for job in jobs(pbs).values()} == {"F"}
    pools.remove(made.settings, "busy")


def test_a_refused_submission_backs_off(made: Instance, pbs: Path) -> None:
    """A queue that is not there: PBS's words in the log, twice as long to the next try."""
    begin(made, "wrong", min=1, request={"partition": "nosuch"})
    until(lambda: len(pools.log(made.settings, "wrong")) >= 6, 20.0, story(made, "wrong"))
    lines = [line for line in pools.log(made.settings, "wrong") if "tried again" in line]
    assert [re.sub(r".*in (\d+) s", r"\1", line) for line in lines[:3]] == ["3", "6", "12"]
    assert all("PBS refused: Unknown queue" in line for line in lines)
    assert jobs(pbs) == {}


def test_a_start_that_comes_to_nothing_backs_off(made: Instance, pbs: Path) -> None:
    """The script's Python is not there: the job ends at once, its exit status and its output are told, it backs off."""
    begin(made, "broken", min=1, request={"python": "/nowhere/python"})

    def log() -> str:
        return "\n".join(pools.log(made.settings, "broken"))

    until(lambda: "no rank of it had joined" in log(), 30.0, story(made, "broken"))
    assert "exit status 127" in log() and "/nowhere/python" in log(), log()


def test_script() -> None:
    """Every option has its place; what PBS has no word for is refused and named."""
    text = render_pbs(
        AllocationRequest(
            instance="mine", nodes=3, ntasks_per_node=8, cpus_per_task=2, gpus_per_node=4, time="2-0",
            partition="debug", account="proj", constraint="mem=8gb", extra=("-m n",), modules=("python/3.12",),
            mark="pyfi:ab:p", home=Path("/a/home"), python="/opt/py/bin/python", output="/logs/pyfi-%j.out",
        )  # fmt: skip
    )
    for line in (
        "#!/bin/bash -l", "#PBS -N pyfi-mine", "#PBS -l select=3:ncpus=16:mpiprocs=8:ngpus=4:mem=8gb",
        "#PBS -l place=scatter", "#PBS -l walltime=48:00:00", "#PBS -q debug", "#PBS -A proj", "#PBS -j oe",
        "#PBS -o /logs/", "#PBS -m n", "#PBS -v PYFI_MARK=pyfi:ab:p", "module load python/3.12", "instance=mine",
        "home=/a/home", "python=/opt/py/bin/python", "ranks=8",
    ):  # fmt: skip
        assert text.splitlines().count(line) == 1, line
    assert "timeout --foreground --signal=USR1 172740" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"qos": "high"}, "PBS has no --qos"),
        ({"cluster": "west"}, "PBS has no --cluster"),
        ({"reservation": "r"}, "PBS has no --reservation"),
        ({"extra": ("--mem=0",)}, "qsub has no option '--mem=0'"),
        ({"extra": ("mem",)}, "not a qsub option"),
        ({"time": "soon"}, "walltime 'soon' is not understood"),
        ({"time": "1"}, "ends before any task"),
        ({"nodes": 0}, "nodes is 0"),
        ({"account": "a\n#PBS -l x"}, "account has a line break"),
        ({"broker": "job"}, "the broker runs here"),
        ({"nodes": 2, "python": "/a b/python"}, "cannot be passed to other nodes"),
    ],
)
def test_bad_request_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        render_pbs(AllocationRequest(**given))


def test_parse_qstat() -> None:
    """A job that waits with an estimate, one that runs, one that has ended; folded lines, foreign jobs."""
    text = """\
Job Id: 12.server
    Job_Name = pyfi-default
    job_state = Q
    Resource_List.walltime = 01:00:00
    Variable_List = PBS_O_HOME=/home/ada,PBS_O_LANG=C,PYFI_MARK=pyfi:abc
\t:small,PBS_O_QUEUE=workq
    comment = Not Running: Not enough free nodes available
    estimated.start_time = Thu Jan  1 12:00:00 2099

Job Id: 13.server
    job_state = R
    Resource_List.walltime = 01:00:00
    resources_used.walltime = 00:10:00
    exec_host = n1/0*4+n2/0*4
    Variable_List = PBS_O_HOME=/home/ada

Job Id: 14.server
    job_state = F
    Exit_status = 271
"""
    waits, runs, ended = parse_qstat(text, time.time())
    at = time.mktime(time.strptime("Thu Jan  1 12:00:00 2099"))
    reason = "Not Running: Not enough free nodes available"
    assert waits == JobSeen("12", "waits", "queued", reason, 3600.0, at, "pyfi:abc:small")
    assert runs == JobSeen("13", "runs", "running", "", 3000.0, None, "", ("n1", "n2"))
    assert (ended.phase, ended.words) == ("ended", "finished (exit status 271)")


def test_errors_name_pbs(pbs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in its own words; what has ended may be ended again; without PBS that is said."""
    request = AllocationRequest(time="10", output="/tmp/pyfi-%j.out")
    with pytest.raises(PbsRefused, match="Unknown queue"):
        Pbs().submit(AllocationRequest(partition="nosuch", time="10"))
    Pbs().cancel("99")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PbsMissing, match="login node of a PBS cluster"):
        Pbs().submit(request)
