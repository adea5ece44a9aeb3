"""Fair shares and preemption on a real instance. It has one owner, so the accounts are projects."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, until

from pyfi_hpc.client.executor import Executor

#: of each call, seconds; and how many B makes
_CALL_S, _COUNT = 0.02, 100


@pytest.fixture(scope="module")
def healthy(test_home: Path) -> Iterator[Instance]:
    """An instance of two ranks on which nobody has used anything yet."""
    made = Instance(test_home, "shares")
    try:
        yield made.up()
    finally:
        made.down()


def took_s(executor: Executor) -> float:
    began = time.monotonic()
    assert list(executor.map("trouble.wait", [_CALL_S] * _COUNT, range(_COUNT), timeout=60)) == list(range(_COUNT))
    return time.monotonic() - began


def shares(box: Instance) -> dict[str, dict[str, Any]]:
    return {row["project"]: row for row in box.ask("shares")["shares"]}


def test_a_hundred_short_calls_behind_a_million(healthy: Instance) -> None:
    """A queues a million calls and runs on both ranks for some seconds; B's hundred take less than twice what they took
    alone, and what is left of A's goes on."""
    took_s(healthy.executor(project="b"))  # once to get warm
    alone = took_s(healthy.executor(project="b"))
    a = healthy.executor(project="a")
    maps = [a.map("trouble.wait", [_CALL_S / 2] * 62_500, timeout=60) for _ in range(16)]  # so much is read ahead
    until(lambda: healthy.ask("info")["broker"]["ready_tasks"] > 990_000, 60.0, "A's calls are queued")
    time.sleep(4.0)
    behind = took_s(healthy.executor(project="b"))
    found = shares(healthy)
    for results in maps:
        results.close()
    until(lambda: healthy.ask("info")["broker"]["open_tasks"] == 0, 60.0, "A's calls are cancelled")
    assert found["a"]["waits"]
    assert found["a"]["used_s"] > found["b"]["used_s"] > 0
    assert behind < 2 * alone, (behind, alone)


def test_a_preemptible_call_makes_room_and_is_run_again(healthy: Instance, tmp_path: Path) -> None:
    """Both ranks run calls of 6 s that may be ended. One of a higher priority is done long before, though nobody's rank
    was free, and both others return: one of them was started again, which its retries did not pay for."""
    slow = healthy.executor(preemptible=True, retries=0)
    began = time.monotonic()
    futures = [slow.submit("trouble.note", str(tmp_path), number, 6.0) for number in (1, 2)]
    until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text().split()) == 2, 20.0, "both run")
    assert healthy.executor(priority=5).submit("trouble.same", 7).result(20) == 7
    assert time.monotonic() - began < 5.5
    assert [future.result(30) for future in futures] == [1, 4]
    assert len((tmp_path / "ran").read_text().split()) == 3


def test_the_gpu_of_a_preemptible_call_becomes_free(instances: Any, tmp_path: Path) -> None:
    """The node's only GPU has a call that may be ended, and a rank is idle. One with a higher priority that needs a GPU
    is done long before; the other runs again."""
    box = instances(gpus=("GPU-a",)).up()
    slow = box.executor(preemptible=True, retries=0, gpus=1)
    began = time.monotonic()
    future = slow.submit("trouble.note", str(tmp_path), 1, 8.0)
    until((tmp_path / "ran").exists, 20.0, "it runs")
    assert box.executor(priority=5, gpus=1).submit("trouble.same", 7).result(20) == 7
    assert time.monotonic() - began < 7.5
    assert future.result(30) == 1
    assert len((tmp_path / "ran").read_text().split()) == 2


def test_whose_share_a_call_uses(healthy: Instance) -> None:
    """By its option, by the options of `pyfi map`, else by the setting of whoever calls."""
    assert Executor(session=healthy.connect(project="lab")).submit("trouble.same", 1).result(20) == 1
    assert Executor(session=healthy.connect(project="lab"), project="own").submit("trouble.same", 2).result(20) == 2
    pyfi(healthy, "map", "trouble.same", "1,2", "--project", "shell", "--preemptible", "--wait")
    assert {"lab", "own", "shell"} <= set(shares(healthy))


def pyfi(box: Instance, *words: str) -> str:
    command = [sys.executable, "-m", "pyfi_hpc.cli.main", "--home", str(box.settings.home), "--instance",
               box.settings.instance, *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_weights_are_set_from_the_shell_and_outlive_the_broker(instances: Any) -> None:
    """`pyfi shares set` gives a project three times the part of another; a new broker still knows, and has forgotten
    what was used before. Both have enough to do: the rank-seconds that they get are as the weights."""
    box = instances().up()
    assert pyfi(box, "shares", "set", "bio", "3") == "project bio: weight 3\n"
    box.restart_broker()
    until(lambda: sum(node["ranks"] for node in box.nodes()) == 2, 20.0, "the ranks are there again")
    maps = [
        box.executor(project=project).map("trouble.wait", [0.005] * 20_000, timeout=60) for project in ("bio", "art")
    ]
    for results in maps:
        next(results)
    time.sleep(6.0)
    found = {row["project"]: row for row in json.loads(pyfi(box, "shares", "--json"))["shares"]}
    for results in maps:
        results.close()
    assert (found["bio"]["project_weight"], found["art"]["project_weight"]) == (3.0, 1.0)
    assert found["bio"]["wanted"] == 0.75
    assert found["bio"]["got"] == pytest.approx(0.75, abs=0.06)
    assert "bio" in pyfi(box, "shares")
