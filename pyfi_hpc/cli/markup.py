"""Pieces of a page: words for numbers, tables, sections, pictures. Pure; what users named is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

#: width of the pictures, in their own units
WIDTH = 960


# --- words --------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Names and errors come from users: nothing in them is HTML, and nothing steers a terminal."""
    return escape("".join(c if c.isprintable() or c in "\n×" else " " for c in text), quote=True)


def cut(text: str, count: int) -> str:
    return text if len(text) <= count else text[: count - 1] + "…"


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lasting(seconds: float) -> str:
    """``12 µs``, ``3.4 ms``, ``5.6 s``, ``7:08 min``, ``1:02:03 h``"""
    if seconds == math.inf:
        return "∞"
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02} h"
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def speed(rate: float) -> str:
    return f"{rate:,.0f} tasks/s" if rate >= 100 else f"{rate:.3g} tasks/s"


def percent(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:.1f} %" if total else ""


# --- tables and pictures -------------------------------------------------------------------------------


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], total: int = 0) -> str:
    """Cells are HTML already; the first column and columns of words stand to the left, numbers to the right."""
    kinds = [_WORDS.get(title, "") for title in titles]
    head = "".join(f"<th{kind}>{title}</th>" for kind, title in zip(kinds, titles, strict=True))
    lines = (
        "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows
    )  # fmt: skip
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    more = f'<p class="note">{len(rows)} of {total:,}</p>' if total > len(rows) else ""
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>{more}'


#: columns of words: names are never broken, errors are
_WORDS = dict.fromkeys(("function", "rank", "state"), ' class="w"') | {"error": ' class="w e"'}


def svg(height: float, content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">{content}</svg>'


def ticks(length: float, count: int = 8) -> list[float]:
    """Round times from 0 on, at most ``count`` steps.

    >>> ticks(100.0)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if length <= 0:
        return [0.0]
    least = length / count
    step = next((s for s in _STEPS_S if s >= least > 5), 0.0)
    if not step:
        power = 10 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return [number * step for number in range(int(length / step + 1e-9) + 1)]


#: steps that clocks have; below and above them it is 1, 2, 5
_STEPS_S = (10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0)


def stretches(values: Iterable[Any]) -> Iterable[tuple[Any, int, int]]:
    """Runs of equal values: value, first, count."""
    first, last, at = 0, None, -1
    for at, value in enumerate(values):
        if at == 0:
            last = value
        elif value != last:
            yield last, first, at - first
            first, last = at, value
    if at >= 0:
        yield last, first, at + 1 - first
