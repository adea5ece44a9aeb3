"""The perf suite as people use it: a result file, a table, and what changed between two. No figure is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PERF = Path(__file__).resolve().parents[2] / "perf"


def _perf(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYFI_PYTHON": sys.executable, "PYTHONPATH": str(PERF.parent)}
    command = [str(PERF / words[0]), *map(str, words[1:])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("perf") / "a.json"
    done = _perf("run", "--quick", "--only", "decisions", "--seed", "7", "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "decision with 1,000 queued" in done.stdout
    return file


def test_a_run_of_one_question_writes_where_and_what_was_measured(result: Path) -> None:
    """The result file names commit, machine, seed and versions; each figure has three runs and its median."""
    found = json.loads(result.read_text())
    assert found["seed"] == 7 and found["quick"] and not found["failures"]
    assert found["commit"] and found["machine"]["cores"] >= 1 and found["versions"]["python"]
    figures = found["figures"]
    assert len(figures) >= 6
    for figure in figures.values():
        assert figure["question"] == "decisions"
        assert len(figure["runs"]) == 3 and figure["median"] == sorted(figure["runs"])[1] > 0


def test_two_result_files_are_compared_figure_by_figure(result: Path, tmp_path: Path) -> None:
    """A figure that is three times as slow is outside both spreads, one like before is not, a new one is named."""
    found = json.loads(result.read_text())
    slower, same, lost = list(found["figures"])[:3]
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    found["figures"][slower]["runs"] = [9.0, 10.0, 11.0]
    before.write_text(json.dumps(found))
    found["figures"][slower]["runs"] = [28.0, 30.0, 32.0]
    found["figures"]["another"] = dict(found["figures"].pop(lost), name="another")
    after.write_text(json.dumps(found))
    done = _perf("compare", before, after)
    assert done.returncode == 0, done.stderr
    told = {line[:44].strip(): line[44:] for line in done.stdout.splitlines()}
    assert "3.00" in told[slower] and "WORSE, outside both spreads" in told[slower]
    assert "1.00" in told[same] and "within the spread" in told[same]
    assert "only in A" in told[lost] and "only in B" in told["another"]


def test_every_question_stands_in_the_list_with_what_it_asks() -> None:
    """Each file below perf/questions begins with its question, and perf/run --list shows it."""
    done = _perf("run", "--list")
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told.keys() == {file.stem for file in (PERF / "questions").glob("[!_]*.py")}
    assert all(text.endswith("?") for text in told.values())
