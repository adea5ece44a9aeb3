"""How answers are printed: for people on a terminal, for programs in a pipe, as JSON when asked.

==========  ========================================================================
terminal    columns without boxes, bold header; ids are never cut, long texts are
pipe        one line a row, fields between tabs, "-" where there is nothing
``--json``  one object with ``"version": 1``; times are ISO and UTC
==========  ========================================================================
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Literal

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.failure import coloured

#: version of everything that ``--json`` prints
VERSION = 1
#: fields that are seconds since 1970
TIMES = frozenset(
    {
        "created",
        "lastupdated",
        "submitted",
        "started",
        "ended",
        "at",
        "seen_at",
        "next_at",
        "expires_at",
        "opened_at",
        "until",
        "quarantined_until",
    }
)
_STYLES = {"CD": "green", "F": "red", "TO": "red", "CA": "yellow", "SK": "yellow", "R": "cyan"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, the field it shows (or a function of the row), and how."""

    title: str
    field: str | Callable[[Mapping[str, Any]], Any] = ""
    right: bool = False
    #: may be cut on a narrow terminal
    cut: bool = False

    def text(self, row: Mapping[str, Any]) -> str:
        value = self.field(row) if callable(self.field) else row.get(self.field or self.title.lower())
        name = "" if callable(self.field) else self.field or self.title.lower()
        return one_line(shown(value, name))


def rows(
    context: Context, name: str, columns: Sequence[Column], found: Iterable[Mapping[str, Any]], **more: Any
) -> None:
    """Print rows; ``more`` (such as a total) stands beside them in JSON."""
    if context.json:
        print_json({name: list(found), **more})
        return
    texts = [[column.text(row) for column in columns] for row in found]
    if fancy():
        _rich_table(columns, texts, context.header)
        total = more.get("total", len(texts))
        if total > len(texts):
            print(f"{len(texts)} of {total}; --limit and --offset show more", file=sys.stderr)
        return
    if context.header:
        print("\t".join(column.title for column in columns))
    for line in texts:
        print("\t".join(line))


def record(context: Context, name: str, values: Mapping[str, Any]) -> None:
    """Print one object: a line a field."""
    if context.json:
        print_json({name: values})
        return
    width = max(map(len, values), default=0) if fancy() else 0
    for key, value in values.items():
        text = shown(value, key)
        if fancy():
            print(f"{bold(key)}{' ' * (width - len(key))}  {text}")
        else:
            print(f"{key}\t{text}".replace("\n", " "))


def print_json(values: Mapping[str, Any], stream: IO[str] | None = None) -> None:
    text = json.dumps({"version": VERSION, **plain(values)}, ensure_ascii=False, indent=2 if fancy() else None)
    print(text, file=stream)


def fancy() -> bool:
    """Standard output is a terminal for people."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if coloured(sys.stdout) else text


def shown(value: Any, name: str = "") -> str:
    """A value in a cell."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if name in TIMES and isinstance(value, int | float):
        return datetime.fromtimestamp(value).strftime("%Y-%m-%dT%H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ",".join(shown(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={shown(item)}" for key, item in value.items())
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def one_line(text: str) -> str:
    """Without what would break a line, or steer the terminal: texts come from users and their functions."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)


def duration(seconds: float | None) -> str:
    """``M:SS``, ``H:MM:SS`` or ``D-HH:MM:SS``, as in squeue.

    >>> duration(62), duration(93784), duration(None)
    ('1:02', '1-02:03:04', '-')
    """
    if seconds is None:
        return "-"
    minutes, s = divmod(int(max(seconds, 0)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}-{h:02}:{m:02}:{s:02}"
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def plain(value: Any, name: str = "") -> Any:
    """A value as JSON has it: times as ISO, bytes as text, arrays and sets as lists, the rest as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, str(key)) for key, item in value.items()}
    if name in TIMES and isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode(errors="backslashreplace")
    if isinstance(value, datetime) or hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy, without importing it
        return plain(value.tolist())
    return str(value)


#: columns of the terminal between two columns, and the narrowest that one is cut to
_GAP, _CUT_TO = 2, 6


def _rich_table(columns: Sequence[Column], texts: Sequence[Sequence[str]], header: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=None if coloured(sys.stdout) else True, highlight=False)
    widths = _widths(columns, texts, console.width)
    # wider than the terminal: better lines that the terminal breaks than ids that rich cuts
    console.width = max(console.width, sum(widths) + _GAP * len(widths))
    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for line in texts:
        table.add_row(*(Text(cell, _style(column, cell)) for column, cell in zip(columns, line, strict=True)))
    console.print(table)


def _widths(columns: Sequence[Column], texts: Sequence[Sequence[str]], terminal: int) -> list[int]:
    """What each column takes: where that is too much, columns that may be cut give, the widest first."""
    from rich.cells import cell_len

    widths = [max([len(column.title), *(cell_len(line[at]) for line in texts)]) for at, column in enumerate(columns)]
    excess = sum(widths) + _GAP * (len(widths) - 1) - terminal
    cuttable = [at for at, column in enumerate(columns) if column.cut]
    while excess > 0 and cuttable:
        widest = max(cuttable, key=lambda at: widths[at])
        if widths[widest] <= max(_CUT_TO, len(columns[widest].title)):
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _style(column: Column, cell: str) -> str:
    return _STYLES.get(cell, "") if column.title == "ST" else ""
