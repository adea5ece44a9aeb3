"""Errors and exit codes: what people and scripts get on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pyfi_hpc import errors
from pyfi_hpc.cli import failure, main

CODES = {
    errors.TaskFailed: 1,
    errors.TaskCancelled: 1,
    errors.EnvironmentFailed: 1,
    errors.UsageError: 2,
    errors.SettingsError: 2,
    errors.DirtyTree: 2,
    errors.Unserialisable: 2,
    errors.TooLarge: 2,
    errors.NotFound: 3,
    errors.UnknownSocket: 3,
    errors.ModuleFailed: 3,
    errors.BrokerUnreachable: 4,
    errors.LedgerUnavailable: 4,
    errors.Refused: 5,
    errors.RepositoryRefused: 5,
    errors.BrokerHeld: 5,
    errors.SiteError: 6,
    errors.PostgresMissing: 6,
    errors.SlurmMissing: 6,
    errors.SlurmBusy: 6,
}


@pytest.mark.parametrize("kind", CODES)
def test_the_exit_code_of_each_error(kind: type[errors.PyfiError], capsys: pytest.CaptureFixture[str]) -> None:
    """Three lines: what, where, how to fix; never a traceback."""
    code = failure.tell(kind("it broke", where="here", fix="mend it"), as_json=False, debug=False)
    said = capsys.readouterr()
    assert code == CODES[kind]
    assert said.err == "error: it broke\nwhere: here\nfix: mend it\n"
    assert said.out == ""


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as an object with a stable code."""
    failure.tell(errors.NotFound("no such thing", where="there", fix="look"), as_json=True, debug=False)
    expected = {"code": "not_found", "what": "no such thing", "where": "there", "fix": "look"}
    assert json.loads(capsys.readouterr().err) == {"version": 1, "error": expected}


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    """Also an error of ours inside is one line, and says how to see more."""
    assert failure.tell(KeyError("x"), as_json=False, debug=False) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "--debug" in said
    failure.tell(errors.NotFound("x"), as_json=False, debug=True)
    assert "NotFound" in capsys.readouterr().err


def test_an_interrupted_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C, as click tells it."""
    assert failure.tell(click.Abort(), as_json=False, debug=False) == 130


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "No such command 'nonsense'."),
        ("quere", "Did you mean 'queue'?"),
        ("ls sock", "Did you mean 'sockets'?"),
        ("add queue", "Missing option"),
        ("up -n 0", "Invalid value"),
        ("up -N 2", "say --slurm too"),
        ("up --slurm -N 2 -G 3", "3 GPUs cannot be shared out evenly to 2 nodes"),
        ("alloc add x -G 4 --gpus-per-node 2", "say the same"),
        ("map x", "give one of"),
        ("map x 1-3 --each-line /dev/null", "give one of"),
        ("wait 1..2", "is not an id"),
        ("task run -s x -d [1,", "neither JSON nor a Python literal"),
        ("--instance a/b queue", "not a plain name"),
    ],
)
def test_a_wrong_command_line_is_usage(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one clear line, before anything is asked of an instance."""
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    assert main.run(line.split()) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["queue", "ls sockets", "task run -s x -nd", "map x 1-3", "deploy .", "info", "wait 1"]
)
def test_no_instance_is_told_where_it_was_looked_for(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4; a script reads the same as JSON."""
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    assert main.run(line.split()) == 4
    assert f"where: {tmp_path}" in capsys.readouterr().err


def test_json_errors_of_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--json counts also when a later option is wrong."""
    assert main.run(["queue", "--json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage_error"


def test_down_without_an_instance_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that there was nothing, and ends with 0."""
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    monkeypatch.setenv("PYFI_SCRATCH", str(tmp_path))
    assert main.run(["down"]) == 0
    assert "nothing of instance 'default' was running here" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error() -> None:
    """`pyfi --help | head -1`: nothing on standard error, whatever was not read."""
    line = f"{sys.executable} -m pyfi_hpc.cli.main info --settings --json | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


def test_an_ini_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both spellings, sections or TOML; a flag wins over it, and each value tells where it came from."""
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    monkeypatch.setenv("PYFI_INSTANCE", "fromenvironment")
    ini = tmp_path / "pyfi.ini"
    for text in ("[pyfi]\ninstance = fromfile\ntimeout_s = 3\n", 'instance = "fromfile"\ntimeout_s = 3.0\n'):
        ini.write_text(text)
        assert main.run(["-i", str(ini), "info", "--settings"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"instance\tfromfile\t{ini}" in lines
        assert f"timeout_s\t3\t{ini}" in lines
    main.run(["-i", str(ini), "--instance", "flag", "--db", "postgresql://u:secret@h/d", "info", "--settings"])
    lines = capsys.readouterr().out.splitlines()
    assert "instance\tflag\tflag" in lines
    assert "ledger\tpostgresql://u:***@h/d\tflag" in lines
    ini.write_text("nonsense = 1\n")
    assert main.run(["-i", str(ini), "info", "--settings"]) == 2
    assert "unknown setting 'nonsense'" in capsys.readouterr().err
