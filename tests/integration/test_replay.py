"""`pyfi sim --replay` on the ledger of a real instance: all is decided the same again, and changes are named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, gone, until
from ledger_fixture import administer

from pyfi_hpc.cli import main
from pyfi_hpc.ledger import embedded

#: whatever a call comes to here, it has within so long
WAIT_S = 60.0
_numbers: list[int] = []
#: calls of the instance that lived, by name
_jobs: dict[str, str] = {}


@pytest.fixture(scope="module")
def lived(test_home: Path) -> Iterator[Instance]:
    """An instance that has seen all kinds of ends, two brokers, and serves on."""
    made = Instance(test_home, "lived")
    folder = test_home / "lived-marks"
    folder.mkdir()
    try:
        _live(made.up(), folder)
        yield made
    finally:
        made.down()


def _live(box: Instance, folder: Path) -> None:
    ex = box.executor()
    # this is job 1
    assert list(ex.map("trouble.same", range(300), timeout=WAIT_S)) == list(range(300))
    twice = ex.with_options(retries=1)
    bad, one = twice.submit("trouble.raise_odd"), ex.submit("trouble.same", 1)
    calls = [bad, one, ex.submit("trouble.same", [bad]), ex.submit("trouble.add", one, 2)]
    _jobs.update(zip(("bad", "one", "skipped", "sum"), (call.id.split(".")[0] for call in calls), strict=True))
    calls += [ex.submit("trouble.die_once", str(folder)), ex.submit("trouble.exit_now", 3)]
    calls += [ex.with_options(time_limit=0.3).submit("trouble.forever")]
    wait(calls, WAIT_S)
    long = [ex.submit("trouble.pid_and_wait", str(folder), 60.0), *(ex.submit("trouble.wait", 60.0) for _ in range(3))]
    until(lambda: (folder / "pid").exists(), WAIT_S, "one runs")
    box.restart_broker()
    box.kill(box.ranks()[0])
    for call in long:
        box.session.cancel(int(call.id.split(".")[0]))
    wait(long, WAIT_S)
    assert all(call.cancelled() for call in long)
    assert list(ex.map("trouble.same", range(300), timeout=WAIT_S)) == list(range(300))


@pytest.fixture
def here(lived: Instance, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """The shell of the instance's owner."""
    settings = lived.settings
    for name, value in (("HOME", settings.home), ("INSTANCE", settings.instance), ("SCRATCH", settings.scratch)):
        monkeypatch.setenv(f"PYFI_{name}", str(value))
    monkeypatch.delenv("PYFI_LEDGER", raising=False)
    return lived


@pytest.fixture
def copy_of(here: Instance) -> Iterator[Callable[[str], str]]:
    """Copies the ledger and changes the copy by one statement; its URL."""
    source = embedded.connect_url(here.settings)
    broker = here.pid("broker")
    os.kill(broker, signal.SIGTERM)  # Postgres copies a database only while nobody uses it
    until(lambda: gone(broker), 10.0, "the broker has ended")
    names: list[str] = []

    def make(statement: str) -> str:
        _numbers.append(0)
        names.append(f"copy{len(_numbers)}")
        administer(source.replace("/pyfi?", "/postgres?"), f"CREATE DATABASE {names[-1]} TEMPLATE pyfi")
        url = source.replace("/pyfi?", f"/{names[-1]}?")
        administer(url, statement)
        return url

    try:
        yield make
    finally:
        for name in names:
            administer(source, f"DROP DATABASE {name} WITH (FORCE)")
        here.start_broker()


def replayed(capsys: pytest.CaptureFixture[str], *source: str, code: int) -> dict[str, Any]:
    assert main.run(["sim", "--replay", *source, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_ledger_comes_out_the_same(here: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    """Failures, retries, deaths, a time limit, a skip, cancelled ones and a restart: no difference, while it serves."""
    found = replayed(capsys, code=0)
    assert found["differences"] == []
    assert {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "SKIPPED"} == set(found["final"])
    assert (found["open"], found["rows_older_than_commits"]) == (0, 0)
    assert found["commits_compared"] > 10
    assert found["payloads_compared"] == sum(found["final"].values()) - found["final"]["SKIPPED"]
    assert found["decisions_compared"] > found["tasks"] > 600
    assert main.run(["sim", "--replay"]) == 0
    assert "all decisions come out the same" in capsys.readouterr().out


#: the first of the first job
_OUTCOME = "job = 1 AND (batch, lo) = (SELECT batch, lo FROM outcome_batch WHERE job = 1 ORDER BY batch, lo LIMIT 1)"
_TOUCH_ALL = "".join(
    f"UPDATE {table} SET {column} = {column};"
    for table, column in (
        ("job", "epoch"), ("task_batch", "epoch"), ("outcome_batch", "epoch"), ("attempt_failed", "epoch"),
        ("ledger_commit", "jobs"),
    )
)  # fmt: skip
CHANGED = {
    "a state": (
        f"UPDATE outcome_batch SET states = set_byte(states, 0, 7) WHERE {_OUTCOME}",
        "task 1.0 did not complete, and has no error",
    ),
    "an argument": (
        "UPDATE task_batch SET payload = set_byte(payload, 1, 0) WHERE job = 1 AND number = 0",
        "batch 1 of job 1 was not written, or was changed since, by a commit",
    ),
    "an outcome is gone": (f"DELETE FROM outcome_batch WHERE {_OUTCOME}", "the commit of epoch 1, seq"),
    "a job is gone": ("DELETE FROM job WHERE id = {bad}", "was admitted to job {bad}, which was not opened before"),
    "a commit is gone": ("DELETE FROM ledger_commit WHERE seq = 3 AND epoch = 1", "seq 3 is missing"),
    "an attempt is gone": (
        "DELETE FROM attempt_failed WHERE job = {bad}",
        "task {bad}.0 has an end of attempt 2, and attempt 1 was to run then"
    ),
    # as from a dump: all rows are of one transaction, and the decisions alone tell
    "restored, a retry is gone": (
        _TOUCH_ALL + "DELETE FROM attempt_failed WHERE job = {bad}",
        "task {bad}.0: recorded is FAILED at attempt 2, decided ERROR at attempt 1",
    ),
    "restored, too many attempts": (
        _TOUCH_ALL + "UPDATE outcome_batch SET attempt = 3 WHERE job = 1 AND batch = 1",
        "has an end of attempt 3, and attempt 1 was to run then",
    ),
    "restored, a failure without error": (
        _TOUCH_ALL + "UPDATE outcome_batch SET states = '\\x04' WHERE job = {one}",
        "task {one}.0 did not complete, and has no error",
    ),
    "restored, one that was not to run": (
        _TOUCH_ALL + "UPDATE outcome_batch SET states = '\\x04', payload = bad.payload, offsets = bad.offsets"
        " FROM (SELECT payload, offsets FROM outcome_batch WHERE job = {bad}) bad WHERE job = {one}",
        "task {sum}.0 has an end of attempt 1 (NONE), and was not to run then",
    ),
    "restored, a skip without cause": (
        _TOUCH_ALL + "UPDATE outcome_batch SET states = '\\x03' WHERE job = {bad}",
        "task {skipped}.0: recorded is SKIPPED at attempt 0, decided nothing",
    ),
}  # fmt: skip


def test_a_changed_row_is_named(copy_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """One row of a copy is changed or removed: exit 1, and the difference names the task, the row or the commit."""
    same = replayed(capsys, copy_of("SELECT 1"), code=0)
    assert same["differences"] == []
    whole = replayed(capsys, copy_of(_TOUCH_ALL), code=0)
    assert (whole["commits_compared"], whole["payload_digest"]) == (0, same["payload_digest"])
    for name, (statement, words) in CHANGED.items():
        found = replayed(capsys, copy_of(statement.format(**_jobs)), code=1)
        told = words.format(**_jobs)
        assert any(told in text for text in found["differences"]), (name, told, found["differences"][:10])


def test_what_is_no_ledger_is_refused(here: Instance, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No such server or database, no ledger in it, a password in the open, files of nothing or rubbish: in words."""
    url = embedded.connect_url(here.settings)
    (tmp_path / "nothing").touch()
    (tmp_path / "rubbish").write_text("rubbish\n")
    administer(url, "CREATE DATABASE bare")
    try:
        for source, code, words in (
            ("postgresql://nobody@127.0.0.1:1/none", 4, "does not take this now"),
            (url.replace("/pyfi?", "/none?"), 4, '"none" does not exist'),
            ("mysql://localhost/pyfi", 2, "is not a Postgres URL"),
            ("postgresql://me:secret@localhost/pyfi", 2, "a password on a command line"),
            (url.replace("/pyfi?", "/bare?"), 3, "has no ledger"),
            (str(tmp_path / "nothing"), 2, "is an empty record"),
            (str(tmp_path / "rubbish"), 2, "is not a recorded ledger"),
            (str(tmp_path / "none"), 2, "No such file"),
        ):
            assert main.run(["sim", "--replay", source]) == code, source
            told = capsys.readouterr().err
            assert words in told, (source, told)
            assert "fix:" in told
            assert "secret" not in told
    finally:
        administer(url, "DROP DATABASE bare WITH (FORCE)")


def test_an_empty_ledger_is_told(
    ledger_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was submitted yet, the URL comes from PYFI_LEDGER: exit 3, like anything that is not there."""
    monkeypatch.setenv("PYFI_LEDGER", ledger_url)
    assert main.run(["sim", "--replay"]) == 3
    assert "nothing was ever submitted" in capsys.readouterr().err
