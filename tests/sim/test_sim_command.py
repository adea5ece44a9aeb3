"""The command `pyfi sim`: what it prints, what it ends with, and what a recorded ledger comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyfi_hpc.cli import main
from pyfi_hpc.model.records import AttemptFailed, OutcomeSettled, Record
from pyfi_hpc.sim import run as sim_run
from pyfi_hpc.sim.cluster import Cluster
from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.recording import read, replay, write


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
    """Written by a seed and read again: as many final tasks, and restarts on the way find nothing else."""
    file = tmp_path / "ledger.jsonl"
    assert main.run(["sim", "--seed", "14", "--record", str(file), "--json"]) == 0
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


SENSELESS = ["--story 1.0", "--seeds 1 --ranks 5", "--seed 1 --story x", "--replay /none"]


@pytest.mark.parametrize("words", SENSELESS)
def test_what_makes_no_sense_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, in words."""
    assert main.run(["sim", *words.split()]) == 2
    assert capsys.readouterr().err
