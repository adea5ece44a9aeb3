"""The function behind ``pyfi xargs``: real programs, their exit codes, and what is kept of their outputs."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyfi_hpc.client import shell as shipping

FILE = Path(shipping.__file__).with_name("shipped") / "shell.py"


@pytest.fixture
def shell() -> ModuleType:
    """The module as a runner imports it."""
    spec = importlib.util.spec_from_file_location("shell", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failure(shell: ModuleType, *argv: str, **given: Any) -> Any:
    with pytest.raises(shell.ProgramFailed) as raised:
        shell.run(list(argv), **given)
    return raised.value


def test_a_program_that_is_fine(shell: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its outputs go where the task's go; it runs in its folder, without standard input; its exit code is the value."""
    assert shell.run(["sh", "-c", "pwd; cat; echo \"$A\" >&2"], str(tmp_path), {"A": "b c"}) == 0
    assert capfd.readouterr() == (f"{tmp_path}\n", "b c\n")


def test_no_shell_is_involved(shell: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """Words reach the program as they are."""
    shell.run(["printf", "%s|", "a b", "$(id)", "*", ";", ""])
    assert capfd.readouterr().out == "a b|$(id)|*|;||"


def test_a_program_that_fails(shell: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code and the last lines of standard error, the very last one first."""
    error = failure(shell, "sh", "-c", "seq 20 >&2; exit 3")
    assert error.args[0] == error.exit_code == 3
    head, title, *lines = str(error).splitlines()
    assert (head, title, lines) == ("exit code 3: 20", "standard error ended with:", [str(n) for n in range(11, 21)])
    assert str(failure(shell, "sh", "-c", "exit 4")) == "exit code 4: sh -c 'exit 4'"
    assert capfd.readouterr().err.splitlines()[-1] == "20"


def test_a_program_that_is_killed(shell: ModuleType) -> None:
    """128 and the signal, as the shell says it, with the signal's name."""
    error = failure(shell, "sh", "-c", "kill -9 $$")
    assert (error.exit_code, str(error)[:31]) == (128 + signal.SIGKILL, "killed by signal 9 (SIGKILL): s")


def test_what_cannot_be_started(shell: ModuleType, tmp_path: Path) -> None:
    """Exit codes as env(1) has them: no folder here, no program, no permission, no argument that a program takes."""
    (tmp_path / "plain").write_text("text")
    assert failure(shell, "true", cwd="/nowhere/here").exit_code == shell.NO_FOLDER == 125
    assert "does not see the folder /nowhere/here" in str(failure(shell, "true", cwd="/nowhere/here"))
    assert failure(shell, "no-such-program").exit_code == shell.NOT_FOUND == 127
    for argv in ([str(tmp_path / "plain")], ["echo", "x" * (1 << 20)], ["echo", "a\0b"]):
        assert failure(shell, *argv).exit_code == shell.CANNOT_RUN == 126


def test_much_output_in_bounded_memory(shell: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """The first and the last half of it, and how much lies between; less is whole."""
    shell.run(["sh", "-c", "yes | head -c 3000000; echo end"])
    out = capfd.readouterr().out
    left_out = 3_000_004 - 2 * shell.HALF_BYTES
    assert out.startswith("y\ny\n") and out.endswith("y\nend\n")
    assert f"\n[... {left_out} bytes left out ...]\n" in out
    assert len(out) < 2 * shell.HALF_BYTES + 100
    shell.run(["sh", "-c", "yes | head -c 100000"])
    assert capfd.readouterr().out == "y\n" * 50_000


def test_what_runs_on_in_the_background_is_not_waited_for(shell: ModuleType, tmp_path: Path) -> None:
    """Its own output is open and the program has ended."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid; exit 0"
    assert shell.run(["sh", "-c", script]) == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_python_is_the_user_s(
    shell: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The virtual environment of this module is not that of programs."""
    monkeypatch.setenv("VIRTUAL_ENV", "/e")
    monkeypatch.setenv("PATH", f"/e/bin:{os.environ['PATH']}")
    shell.run([sys.executable, "-c", "import os; print(os.environ.get('VIRTUAL_ENV'), os.environ['PATH'])"])
    assert capfd.readouterr().out == f"None {os.environ['PATH'].removeprefix('/e/bin:')}\n"
