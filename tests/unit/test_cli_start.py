"""How the command starts: what it imports, how fast it answers, that its table of commands is true."""

from __future__ import annotations

import resource
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from pyfi_hpc.cli import main
from pyfi_hpc.cli.commands import COMMANDS

#: slow to import, or not there on every machine
HEAVY = ("mpi4py", "sqlalchemy", "paramiko", "numpy", "zmq", "rich", "git", "alembic", "msgspec", "psutil")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["up", "--help"], ["add", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """A fresh interpreter prints help and names what it has imported."""
    script = "import sys; from pyfi_hpc.cli.main import run; run(sys.argv[1:]); sys.exit(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=30)
    assert done.stdout
    assert set(HEAVY) & set(done.stderr.split()) == set()


def test_help_answers_at_once() -> None:
    """Under 0.3 s of processor time, so that other work on the machine cannot fail it."""
    seconds = []
    for _ in range(5):
        before = _children_s()
        subprocess.run(
            [sys.executable, "-m", "pyfi_hpc.cli.main", "--help"], capture_output=True, timeout=60, check=True
        )
        seconds.append(_children_s() - before)
        if min(seconds) < 0.3:
            return
    pytest.fail(f"pyfi --help took {min(seconds):.2f} s")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_loads_and_does_what_the_table_says(name: str) -> None:
    """Both begin with the same verb: a command that was renamed or moved shows."""
    command = main.load(name)
    assert isinstance(command, click.Command)
    assert (command.help or "").split()[0] == COMMANDS[name][2].split()[0]
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0


def test_every_object_can_be_listed() -> None:
    """Help of each command below add, ls, update and delete."""
    for name in ("add", "ls", "update", "delete"):
        group = main.load(name)
        assert isinstance(group, click.Group)
        context = click.Context(group)
        for word in group.list_commands(context):
            command = group.get_command(context, word)
            assert command is not None, word
            assert CliRunner().invoke(command, ["--help"]).exit_code == 0, word


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_command(shell: str) -> None:
    """The script that the shell reads calls pyfi back."""
    done = CliRunner().invoke(main.cli, ["completion", shell])
    assert done.exit_code == 0
    assert "_PYFI_COMPLETE" in done.output
