"""Jobs on hold, on a real instance and by the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, until

from pyfi_hpc.client.job import attach
from pyfi_hpc.client.mapping import AHEAD_TASKS_MAX


@pytest.fixture(scope="module")
def two(test_home: Path) -> Iterator[Instance]:
    """Two ranks; the broker is restarted."""
    made = Instance(test_home, "holds")
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture
def pyfi(two: Instance) -> Callable[..., str]:
    def run(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "pyfi_hpc.cli.main", "--home", str(two.settings.home), "--instance",
                   two.settings.instance, *words]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def ran(folder: Path) -> list[int]:
    file = folder / "ran"
    return sorted(int(line) for line in file.read_text().split()) if file.exists() else []


def submitted(told: str) -> int:
    found = re.search(r"Submitted \w+ (\d+)", told)
    assert found, told
    return int(found[1])


def test_a_job_on_hold_waits_over_a_restart(two: Instance, tmp_path: Path, pyfi: Callable[..., Any]) -> None:
    """Put on hold while two of its calls run: they end, and no other starts, also after a restart of the broker; the
    queue and `why` tell; another job has the ranks. Released, every call is run once."""
    results = two.executor().map("trouble.note", [str(tmp_path)] * 12, range(12), [1.0] * 12)
    job = results.id
    until(lambda: len(ran(tmp_path)) >= 2, 20.0, "two run")
    assert f"job {job}: on hold" in pyfi("hold", str(job))
    until(lambda: two.ask("info")["broker"]["jobs"][job]["running"] == 0, 10.0, "what ran has ended")
    begun = ran(tmp_path)
    assert 2 <= len(begun) < 12
    assert "(JobHeldUser)" in pyfi("queue", "-j", str(job))
    assert f"`pyfi release {job}`" in pyfi("why", str(job))
    assert pyfi("hold", str(job)) == f"job {job}: it was on hold already\n"
    two.restart_broker()
    until(lambda: sum(node["ranks"] for node in two.nodes()) == 2, 20.0, "the ranks are there again")
    assert list(two.executor().map("trouble.same", range(50), timeout=30)) == list(range(50))
    time.sleep(2.5)  # a recovery is over
    assert ran(tmp_path) == begun
    assert pyfi("release", str(job)) == f"job {job}: released\n"
    assert list(results) == [number * number for number in range(12)]
    assert ran(tmp_path) == list(range(12))


def test_submitted_on_hold(two: Instance, tmp_path: Path, pyfi: Callable[..., Any]) -> None:
    """From Python with a consumer, and by the three commands: nothing starts, the backlog is empty; they are released
    by the handle and by the command, and one is cancelled."""
    first = two.executor(hold=True).submit("trouble.same", 5)
    second = two.executor().submit("trouble.same", first)
    told = pyfi("task", "run", "-s", "trouble.same", "-d", "3", "--hold", "--size", "2", "--preemptible")
    assert "on hold until `pyfi release" in told.lower()
    task = submitted(told)
    told = pyfi("map", "trouble.same", "1-100", "--hold", "--project", "art")
    mapped = submitted(told)
    assert "(100 tasks). On hold" in told
    told = pyfi("xargs", "-a", str(_lines(tmp_path)), "--hold", "touch", f"{tmp_path}/{{}}")
    program = submitted(told)
    time.sleep(1.0)
    jobs = two.ask("info")["broker"]["jobs"]
    assert [jobs[job]["reason"] for job in (first.job, task, mapped, program)] == ["JobHeldUser"] * 4
    assert jobs[second.job]["reason"] == "Dependency"
    assert two.ask("backlog", shapes=[])["work"] == []
    assert not (tmp_path / "x").exists()
    assert "100 tasks cancelled" in pyfi("cancel", str(mapped))
    attach(first.job, session=two.session).release()  # type: ignore[union-attr]
    assert second.result(20) == 5
    pyfi("release", str(task), str(program))
    assert pyfi("wait", str(task), "--output", "-").startswith("{")
    pyfi("wait", str(program))
    assert (tmp_path / "x").exists()
    assert "no unfinished job" in pyfi("release", str(mapped), code=3)
    assert json.loads(pyfi("queue", "-j", str(task), "--json"))["jobs"][0]["done"] == 1


def test_more_than_is_read_ahead_is_submitted_on_hold(two: Instance, pyfi: Callable[..., Any]) -> None:
    """A map holds so much of its results in memory; on hold there are none, so all of it is in the ledger at once."""
    told = pyfi("map", "trouble.same", f"1-{AHEAD_TASKS_MAX + 5000}", "--hold")
    assert f"({AHEAD_TASKS_MAX + 5000} tasks)" in told
    pyfi("cancel", str(submitted(told)))


def _lines(folder: Path) -> Path:
    file = folder / "lines"
    file.write_text("x\n")
    return file
