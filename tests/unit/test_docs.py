"""The pages in docs/ name what the code has: every error, command, message and state, and nothing that is gone."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

from pyfi_hpc import errors
from pyfi_hpc.cli.commands import COMMANDS
from pyfi_hpc.model import messages
from pyfi_hpc.model.states import TaskState

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    """The cells of all table rows of a page."""
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_guarantees_name_the_tests_that_show_them() -> None:
    """Each fault that is made is on the page, and each test that the page names is there."""
    tests = Path(__file__).parents[1]
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "guarantees.md").read_text()))
    made = {
        name
        for file in (tests / "chaos").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert named == made, (named - made, made - named)


def test_every_error_is_explained() -> None:
    """troubleshooting.md has each class with its code and its exit code, and no other."""
    explained = [row for row in rows("troubleshooting.md") if row[0].startswith("`")]
    told = {name: (code.strip("`"), exit_code) for code, name, exit_code, *_ in explained}
    kinds = dict(inspect.getmembers(errors, lambda kind: inspect.isclass(kind) and issubclass(kind, errors.PyfiError)))
    assert told == {name: (kind.code, str(kind.exit_code)) for name, kind in kinds.items()}


def test_every_command_is_listed() -> None:
    """cli.md names each command once in its table, and no other."""
    told = re.findall(r"`pyfi (\w+)`", " ".join(row[0] for row in rows("cli.md")))
    assert sorted(told) == sorted(COMMANDS)


def test_every_message_stands_in_the_protocol() -> None:
    """protocol.md has in its tables exactly the messages of the four directions, broker's and agent's ends."""
    sections = re.split(r"^## ", (DOCS / "protocol.md").read_text(), flags=re.M)
    directions = {
        "Client and broker": (messages.FromClient, messages.ToClient),
        "Agent and broker": (messages.FromAgent, messages.ToAgent),
        "Rank and agent": (messages.FromRank, messages.ToRank),
    }
    for title, kinds in directions.items():
        (section,) = (text for text in sections if text.startswith(title))
        lines = [line.strip("|").split("|")[0] for line in section.splitlines() if line.startswith("|")][2:]
        told = {word.strip() for line in lines for word in line.split(",")}
        assert told == {kind.__name__ for union in kinds for kind in get_args(union)}, title


def test_every_state_is_in_the_glossary() -> None:
    """Each word that users read, with its two letters."""
    told = {row[0]: row[1] for row in rows("glossary.md") if len(row) == 3 and row[0].isupper()}
    assert told == {state.word: state.code for state in TaskState}


def test_exit_codes_are_those_of_the_command() -> None:
    """The table in cli.md lists what cli/main.py promises."""
    from pyfi_hpc.cli import main

    promised = re.findall(r"^ *(\d+)  ", main.__doc__ or "", re.M)
    told = [row[0] for row in rows("cli.md") if row[0].isdigit()]
    assert set(promised) <= set(told)
