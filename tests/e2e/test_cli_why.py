"""`pyfi why` on a real instance: what it says is so, and what it says would start a task does."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from pyfi_command import Pyfi

SAMPLE = "pyfi.processors.sample"


def why(instance: Pyfi, what: str) -> dict[str, Any]:
    return json.loads(instance("why", what, "--json").stdout)  # type: ignore[no-any-return]


def running(instance: Pyfi, job: str, count: int) -> None:
    """Wait until so many tasks of a job are with a rank."""
    deadline = time.monotonic() + 30
    while json.loads(instance("queue", "-j", job, "--json").stdout)["jobs"][0]["ranks"] < count:
        assert time.monotonic() < deadline


def submitted(instance: Pyfi, *arguments: str) -> str:
    found = re.search(r"\b(\d+)\b", instance("map", *arguments).stdout)
    assert found
    return found[1]


def test_a_limit_is_named_and_lifting_it_starts_the_task(instance: Pyfi) -> None:
    """The command that the answer gives is run as it stands, with a higher number."""
    instance("update", "socket", f"{SAMPLE}.wait", "-c", "1")
    job = submitted(instance, f"{SAMPLE}.wait", "60,61")
    running(instance, job, 1)
    text = instance("why", job).stdout
    assert f"job {job}  {SAMPLE}.wait  1 PENDING, 1 RUNNING; its task {job}.1 is PENDING (SocketLimit)" in text
    assert "has 1 call running, and at most 1 may" in text
    assert "(SocketLimit)" in instance("queue", "-j", job).stdout
    command = re.search(r"`pyfi (update socket -n \S+ -c) N`", text)
    assert command
    instance(*command[1].split(), "0")
    running(instance, job, 2)
    assert why(instance, f"{job}.1")["state"] == "RUNNING"
    instance("cancel", job)
    assert "all of its tasks have ended: 2 CANCELLED" in instance("why", job).stdout
    assert why(instance, f"{job}.1")["because"][0] == "it has ended: CANCELLED"


def test_what_goes_first_and_about_when(instance: Pyfi) -> None:
    """Both ranks are busy and a higher priority is in line; with one more it would be next, and is."""
    # a node takes more in hand of what was short so far: tasks of a second, and it takes one for each rank
    instance("map", f"{SAMPLE}.wait", ",".join("1" * 10), "--wait")
    first = submitted(instance, f"{SAMPLE}.wait", ",".join("1" * 100), "--priority", "4")
    last = submitted(instance, f"{SAMPLE}.wait", "1")
    running(instance, first, 2)
    found = why(instance, last)
    assert (found["reason"], found["index"]) == ("Priority", 0)
    assert any(re.search(r"go first: \d+ of \S+\.wait with priority 4", line) for line in found["because"])
    assert any("--priority 5" in line for line in found["would"])
    raised = submitted(instance, f"{SAMPLE}.wait", "1", "--priority", "5")
    instance("wait", raised)
    instance("cancel", first)
    instance("wait", last)
    ends = {job: json.loads(instance("ls", "call", "--id", f"{job}.0", "--json").stdout) for job in (raised, last)}
    assert ends[raised]["call"]["started"] < ends[last]["call"]["started"]
    # now it is known how long such calls take
    jobs = [submitted(instance, f"{SAMPLE}.wait", ",".join("3" * 16)), submitted(instance, f"{SAMPLE}.wait", "1")]
    running(instance, jobs[0], 2)
    told = re.search(r"starts in about ([\d.]+) s", instance("why", jobs[1]).stdout)
    assert told and 0.5 < float(told[1]) < 60
    instance("cancel", *jobs)


def test_a_node_says_what_it_does(instance: Pyfi) -> None:
    """By its name; quarantined, it names the command that ends that, which does."""
    name = json.loads(instance("info", "--json").stdout)["broker"]["nodes"][0]["name"]
    deadline = time.monotonic() + 20
    while "nothing is ready to run" not in instance("why", name).stdout:  # what was cancelled before this is ending
        assert time.monotonic() < deadline
    instance("node", "quarantine", name, "--reason", "noise")
    job = submitted(instance, f"{SAMPLE}.wait", "0")
    assert "(NodesQuarantined)" in instance("why", job).stdout
    command = re.search(r"`pyfi (node release \S+)`", instance("why", name).stdout)
    assert command
    instance(*command[1].split())
    instance("wait", job)


def test_what_never_was_is_not_found(instance: Pyfi) -> None:
    """Exit code 3, and a way on."""
    assert "there is no job 99999" in instance("why", "99999", code=3).stderr
    assert "99999.1" in instance("why", "99999.1", code=3).stderr
    assert "no node or allocation nowhere" in instance("why", "nowhere", code=3).stderr
