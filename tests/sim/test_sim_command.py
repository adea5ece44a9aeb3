"""The command `pyfi sim`: what it prints, what it ends with, and what a recorded ledger comes to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.cli import main
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, JobOpened, OutcomeSettled, Record
from pyfi_hpc.sim import run as sim_run
from pyfi_hpc.sim.cluster import Cluster
from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.recording import read, replay, write
from pyfi_hpc.sim.reliving import relive


def test_seeds_are_run_and_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve seeds: exit 0, tasks, faults by kind and times, for people and as JSON."""
    assert main.run(["sim", "--seeds", "12", "--first", "5"]) == 0
    told = capsys.readouterr().out
    assert "12 seeds:" in told
    assert "broker dies" in told
    assert main.run(["sim", "--seeds", "12", "--first", "5", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["seeds"], values["failed"]) == (12, [])
    assert values["faults"]["broker dies"] >= 1
    assert values["tasks"] > 0 < values["virtual_s"]


def test_a_seed_that_fails_is_told_and_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1, the command that repeats it, and the story of the guilty task."""

    def suspicious(cluster: Cluster) -> None:
        job, index, *_ = cluster.executed[0]
        raise Violation("somebody does not like it", (job, index))

    monkeypatch.setattr(sim_run, "check", suspicious)
    assert main.run(["sim", "--seeds", "1", "--first", "2"]) == 1
    told = capsys.readouterr().out
    assert "repeat: pyfi sim --seed 2" in told
    assert "OutcomeSettled" in told
    assert main.run(["sim", "--seed", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"]["what"].endswith("somebody does not like it")


def test_the_run_at_scale_tells_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Five hundred ranks, two thousand tasks: each runs once."""
    assert main.run(["sim", "--ranks", "500", "--tasks", "2000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ranks"], found["tasks"], found["attempts"]) == (500, 2000, 2000)
    assert found["decisions_per_s"] > 0 < found["memory_mib"]


def test_a_recorded_ledger_comes_out_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Written by a seed (of ordinary limits, which a ledger does not tell) and read again: as many final tasks, and
    restarts on the way find nothing else."""
    file = tmp_path / "ledger.jsonl"
    assert main.run(["sim", "--seed", "12", "--record", str(file), "--json"]) == 0
    ran = json.loads(capsys.readouterr().out)
    assert main.run(["sim", "--replay", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["open"], found["differences"]) == (ran["tasks"], 0, [])
    assert found["grants_compared"] > 0
    assert replay(read(str(file)))["state_digest"] == found["state_digest"]


def test_a_ledger_that_lost_a_record_is_seen(tmp_path: Path) -> None:
    """An outcome is missing, one is there twice, an attempt is charged twice: each is told with its place."""
    made = sim_run.make(14)
    made.go()
    log = list(made.cluster.store.log)
    file = tmp_path / "ledger.jsonl"
    write(log, str(file))
    assert read(str(file)) == log
    at = next(k for k, record in enumerate(log) if isinstance(record, OutcomeSettled))
    twice: list[Record] = [*log[: at + 1], log[at], *log[at + 1 :]]
    assert any("cannot follow" in text for text in replay(twice)["differences"])
    assert replay(log[:at] + log[at + 1 :])["open"] > 0
    assert not replay([record for record in log if not isinstance(record, AttemptFailed)])["open"]


@pytest.mark.parametrize("first", [0, 30])
def test_what_a_broker_decided_is_decided_again(first: int) -> None:
    """The logs of thirty runs with all kinds of faults, lived through by a new broker: no other decision anywhere."""
    compared = 0
    for seed in range(first, first + 30):
        made = sim_run.make(seed)
        made.go()
        found = relive(made.cluster.store.log, inputs_bytes_max=made.cluster.limits.inputs_bytes_max)
        assert found["differences"] == [], seed
        compared += found["decisions_compared"]
    assert compared > 5000


def _other(log: list[Record], kind: type, wanted: Callable[[Any], bool], **changes: Any) -> list[Record]:
    """The log with one record changed."""
    at = next(k for k, record in enumerate(log) if isinstance(record, kind) and wanted(record))
    return [*log[:at], replace(log[at], **changes), *log[at + 1 :]]


CHANGES: dict[str, tuple[Callable[[list[Record]], list[Record]], str]] = {
    "an attempt's number": (
        lambda log: _other(log, OutcomeSettled, lambda r: r.attempt == 1, attempt=2),
        r"task \d+.\d+ has an end of attempt 2, and attempt 1 was to run then",
    ),
    "an error that is not tried again": (
        lambda log: [replace(r, retries=0) if isinstance(r, BatchAdmitted) else r for r in log],
        r"task \d+.\d+: recorded is ERROR at attempt (\d+), decided FAILED at attempt \1",
    ),
    "a job that comes too early": (
        lambda log: [replace(r, job=r.job + 1) if getattr(r, "job", 0) > 1 else r for r in log],  # type: ignore[type-var]
        "job 3 is where job 2 comes next",
    ),
    "a batch of another count": (
        lambda log: _other(log, BatchAdmitted, lambda r: r.count > 1, count=1),
        r"the arguments of batch \d+ of job \d+ do not fit its 1 tasks",
    ),
    "a key that was used before": (
        lambda log: [replace(r, key=b"k" * 16) if isinstance(r, JobOpened) and r.job < 3 else r for r in log],
        "job 2 was not opened like this",
    ),
    "a cancelled one without request": (
        lambda log: [r for r in log if not (isinstance(r, BatchAdmitted) and r.number)],
        r"tasks of batch \d+ of job \d+ have ended, and it was not admitted before",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_decision_that_cannot_be_is_named(name: str) -> None:
    """A record is changed: the difference says which task, batch or job, and what should have come."""
    change, words = CHANGES[name]
    told: list[str] = []
    for seed in (14, 3, 8, 23, 40):
        made = sim_run.make(seed)
        made.go()
        try:
            told += replay(change(list(made.cluster.store.log)))["differences"]
        except StopIteration:  # nothing of that kind in this run
            continue
        if any(re.search(words, text) for text in told):
            return
    raise AssertionError(told[:10])


SENSELESS = ["--story 1.0", "--seeds 1 --ranks 5", "--seed 1 --story x", "--replay /none"]


@pytest.mark.parametrize("words", SENSELESS)
def test_what_makes_no_sense_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, in words."""
    assert main.run(["sim", *words.split()]) == 2
    assert capsys.readouterr().err
