"""How answers look: in a pipe, on a terminal, as JSON."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from pyfi_hpc.cli import output
from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.output import Column

COLUMNS = (Column("ID", right=True), Column("NAME", cut=True), Column("ST", "code"), Column("STARTED"))
ROWS = [
    {
        "id": "17.123456",
        "name": "a name that is much too long for a narrow terminal",
        "code": "CD",
        "started": 0.5,
    },
    {"id": "1", "name": "tab\there", "code": "F", "started": None},
]


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, **environment: str) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}.items():
        monkeypatch.setenv(name, value)
    return terminal


def test_in_a_pipe_fields_stand_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is cut; an empty field is a dash, so that columns keep their number."""
    output.rows(Context(), "things", COLUMNS, ROWS, total=2)
    assert capsys.readouterr().out == (
        "ID\tNAME\tST\tSTARTED\n"
        "17.123456\ta name that is much too long for a narrow terminal\tCD\t1970-01-01T00:00:00\n"
        "1\ttab here\tF\t-\n"
    )
    output.rows(Context(header=False), "things", COLUMNS, ROWS[1:])
    assert capsys.readouterr().out == "1\ttab here\tF\t-\n"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object with a version; times are ISO and UTC."""
    output.rows(Context(json=True), "things", COLUMNS, ROWS[:1], total=9)
    row = {**ROWS[0], "started": "1970-01-01T00:00:00.500000Z"}
    assert json.loads(capsys.readouterr().out) == {"version": 1, "things": [row], "total": 9}


def test_on_a_narrow_terminal_ids_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only columns that may be cut are; numbers stand right, no boxes."""
    terminal = on_terminal(monkeypatch, 60, NO_COLOR="1")
    output.rows(Context(), "things", COLUMNS, ROWS)
    assert [re.sub(r"\033\[\d*m", "", line).rstrip() for line in terminal.getvalue().splitlines()] == [
        "       ID  NAME                      ST  STARTED",
        "17.123456  a name that is much too…  CD  1970-01-01T00:00:00",
        "        1  tab here                  F   -",
    ]


def test_colours_and_their_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR takes the colours, TERM=dumb the columns too."""
    coloured = on_terminal(monkeypatch, 100)
    output.rows(Context(), "things", COLUMNS, ROWS)
    assert "\033[" in coloured.getvalue()
    plain = on_terminal(monkeypatch, 100, NO_COLOR="1")
    output.rows(Context(), "things", COLUMNS, ROWS)
    assert "\033[3" not in plain.getvalue()
    dumb = on_terminal(monkeypatch, 100, TERM="dumb")
    output.rows(Context(), "things", COLUMNS, ROWS)
    assert dumb.getvalue().startswith("ID\tNAME")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(3), [0, 1, 2]),
        (np.float32(0.5), 0.5),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        (b"abc\xff", "abc\\xff"),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.10"), "1.10"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_any_result_has_a_json_form(value: Any, expected: Any) -> None:
    """Functions return more than JSON knows."""
    assert output.plain(value) == expected
    assert os.linesep not in json.dumps(output.plain(value))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (62.9, "1:02"), (3600, "1:00:00"), (93784, "1-02:03:04"), (None, "-")]
)
def test_durations_read_as_in_squeue(seconds: float | None, text: str) -> None:
    """Minutes always, hours and days where there are any."""
    assert output.duration(seconds) == text
