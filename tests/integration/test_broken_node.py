"""A node or a rank on which no runner lives beside one that is well, on real parts: who rests; nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from instance_fixture import Instance, make_repository, until

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.main import cli

#: in the environment of all that the broken node's agent starts; read by the functions' module
_BROKEN = "TEST_BROKEN_NODE"
#: the same: names a file with the process number of a broken rank
_BROKEN_RANK = "TEST_BROKEN_RANK"
_MODULE = f"""
import os, time

if os.environ.get("{_BROKEN}"):
    os._exit(7)  # the runner dies at once, whatever the function
if os.environ.get("{_BROKEN_RANK}") and str(os.getppid()) in open(os.environ["{_BROKEN_RANK}"]).read().split():
    os._exit(8)


def double(x):
    time.sleep(0.02)
    return 2 * x


def die(x):
    os._exit(9)


def fail(x):
    raise ValueError(x)
"""
_LIMIT_S = 60.0


class Two:
    """An instance with a broken node ``bad`` and a good one ``good``."""

    def __init__(self, box: Instance, folder: Path) -> None:
        self.box = box
        box.start_ledger()
        box.start_broker()
        self._start("bad", {_BROKEN: "1"})
        self._start("good", {})
        box.deploy(make_repository(folder / "calm", {"calm.py": _MODULE}))

    def _start(self, name: str, more: dict[str, str]) -> None:
        given = {"SLURMD_NODENAME": name, **more}
        os.environ.update(given)
        try:
            self.box.start_agent(2, joined=False)
        finally:
            for variable in given:
                del os.environ[variable]
        until(lambda: self.node(name).get("ranks") == 2, _LIMIT_S, f"the ranks of {name} are there")

    def node(self, name: str) -> dict[str, object]:
        return next((node for node in self.box.nodes() if node["name"] == name), {})

    def resting(self, name: str) -> bool:
        node = self.node(name)
        return bool(node["quarantined"] or node["resting"])

    def pyfi(self, *words: str) -> str:
        """Run a command of the command line in this process."""
        context = Context(json="--json" in words)
        context.__dict__["settings"] = self.box.settings
        done = CliRunner().invoke(cli, list(words), obj=context, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture
def two(instances: Callable[..., Instance], tmp_path: Path) -> Two:
    return Two(instances(), tmp_path)


@pytest.mark.timeout(180)
def test_only_the_broken_node_is_quarantined_and_every_task_completes(two: Two) -> None:
    """Each runner of one node dies at once: its tasks complete on the other, uncharged, and people are told why."""
    box = two.box
    done = 0
    while not two.node("bad")["quarantined"]:
        assert done < 400, two.node("bad")
        results = list(box.executor().map("calm.double", range(20), timeout=_LIMIT_S))
        assert results == [2 * x for x in range(20)]
        done += 20
    assert not two.resting("good")
    node = two.node("bad")
    assert float(str(node["quarantined_until"])) > 1e9
    told = two.pyfi("info")
    assert "quarantined until" in told and ("completed elsewhere" in told or "ranks rest" in told)
    shown = json.loads(two.pyfi("ls", "node", "bad", "--json"))["node"]
    assert shown["status"] == "quarantined" and shown["live"][0]["quarantined"] == node["quarantined"]
    # a task that dies on each rank of the good node, and one whose function raises, speak against nobody
    lost = box.executor().submit("calm.die", 1)
    assert "died 3 times" in str(lost.exception(_LIMIT_S))
    assert isinstance(box.executor(retries=1).submit("calm.fail", 2).exception(_LIMIT_S), ValueError)
    assert not two.resting("good")
    (call,) = [row for row in box.ask("calls", state="FAILED", limit=2)["rows"] if row["socket"] == "calm.fail"]
    line = next(row for row in two.pyfi("ls", "call", "--id", call["id"]).splitlines() if row.startswith("budgets"))
    assert line.startswith("budgets\terror 2/2 (retries=1)  crash 0/3  ")
    call = json.loads(two.pyfi("ls", "call", "--id", lost_id(box), "--json"))["call"]
    used = {row["cause"]: row for row in call["budgets"]}
    assert (used["crash"]["used"], used["crash"]["limit"], used["error"]["used"]) == (3, 3, 0)


def lost_id(box: Instance) -> str:
    (row,) = [row for row in box.ask("calls", state="FAILED", limit=5)["rows"] if row["socket"] == "calm.die"]
    return str(row["id"])


@pytest.mark.timeout(180)
def test_a_broken_rank_rests_and_its_node_works_on(
    instances: Callable[..., Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runners of one of two ranks die at once: that rank rests, the other runs everything, the node stays."""
    box = instances()
    broken = tmp_path / "broken"
    broken.write_text("")
    monkeypatch.setenv(_BROKEN_RANK, str(broken))
    box.start_ledger()
    box.start_broker()
    box.start_agent(2)
    box.deploy(make_repository(tmp_path / "calm", {"calm.py": _MODULE}))
    victim = box.ranks()[0]
    broken.write_text(str(victim))

    def node() -> dict[str, Any]:
        (found,) = box.nodes()
        return dict(found)

    done = 0
    while not node()["resting"]:
        assert done < 400, node()
        assert list(box.executor().map("calm.double", range(20), timeout=_LIMIT_S)) == [2 * x for x in range(20)]
        done += 20
    (rest,) = node()["resting"]
    assert "completed elsewhere" in rest["reason"] and rest["until"] > 1e9
    assert not node()["quarantined"] and victim in box.ranks()
    until(lambda: node()["ranks"] == 1, 10.0, "one rank is in service")
    assert list(box.executor().map("calm.double", range(20), timeout=_LIMIT_S)) == [2 * x for x in range(20)]
    assert box.ask("calls", state="FAILED")["total"] == 0


@pytest.mark.timeout(180)
def test_tasks_wait_while_all_nodes_are_quarantined_and_run_when_one_is_released(two: Two) -> None:
    """By hand: both nodes; `pyfi queue` says why nothing runs; `pyfi node release` lets the good one work."""
    for name in ("bad", "good"):
        told = two.pyfi("node", "quarantine", name, "--for", "1h", "--reason", "fan")
        assert told.startswith(f"node {name}: quarantined until ") and told.endswith(": fan\n")
    future = two.box.executor().submit("calm.double", 21)
    until(lambda: "(NodesQuarantined)" in two.pyfi("queue", "-u"), 10.0, "the reason is told")
    assert not future.done()
    assert two.pyfi("node", "release", "good") == "node good: released node\n"
    assert future.result(_LIMIT_S) == 42
    assert two.node("bad")["quarantined"] == "fan"
