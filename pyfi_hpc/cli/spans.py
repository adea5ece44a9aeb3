"""Where and when the tasks of a job ran, as the desk tells it page by page."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Ask = Callable[[str, dict[str, Any]], Any]
#: stretches of indexes in one question
_RANGES = 1000
_END = (1 << 62) - 1


@dataclass(slots=True)
class Span:
    """Tasks ``first`` and up that ended on one rank at one attempt."""

    first: int
    count: int
    attempt: int
    node: str
    rank: int
    states: bytes
    #: seconds since 1970, UTC; 0, or nothing at all: it never ran
    started: Sequence[float]
    durations: Sequence[float]
    socket: str


def read_spans(ask: Ask, job: int, ranges: Sequence[tuple[int, int]] | None = None) -> Iterator[Span]:
    """Final tasks of a job, of stretches ``(first, end)`` of its indexes or of all of it, in order."""
    merged = _merged(ranges) if ranges is not None else [(0, _END)]
    for at in range(0, len(merged), _RANGES):
        left = merged[at : at + _RANGES]
        while left:
            page = ask("spans", {"job": job, "ranges": [list(one) for one in left]})
            yield from (_span(row) for row in page["rows"])
            left = [(max(first, page["next"]), end) for first, end in left if end > page["next"] >= 0]


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def _span(row: Sequence[Any]) -> Span:
    first, count, attempt, node, rank, states, started, durations, socket = row
    return Span(
        first, count, attempt, node, rank, states, _numbers("d", started), _numbers("f", durations), socket
    )  # fmt: skip


def _numbers(kind: str, data: bytes) -> Sequence[float]:
    """A packed column, little-endian."""
    found = array(kind)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found
