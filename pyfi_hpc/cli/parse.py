"""What people type: data for a call, ids of jobs and tasks, indices. Pure; raises UsageError."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.errors import UsageError

#: numbers that one list of ids may stand for
IDS_MAX = 1_000_000


def arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call: JSON or a Python literal, never evaluated (FEATURES, ruling 5).

    >>> arguments('["a", 1]'), arguments('{"n": 1}'), arguments("hello")
    ((['a', 1], {}), ([], {'n': 1}), (['hello'], {}))
    """
    value = literal(text)
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return [], value
    return [value], {}


def literal(text: str) -> Any:
    """JSON, else a Python literal, else the text itself.

    Raises
    ------
    UsageError
        It starts as a list, an object or a quoted text, and is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        if text.lstrip()[:1] in ("[", "{", "(", '"', "'"):
            said = error.msg if isinstance(error, SyntaxError) else "it is not made of plain values"
            raise UsageError(
                f"the data is neither JSON nor a Python literal: {said}", where=text.strip()[:120],
                fix="""write '["text", 1]' for two arguments, '{"name": 1}' for one by name""",
            ) from None  # fmt: skip
    return text


@dataclass(frozen=True, slots=True)
class Ids:
    """Jobs, ``J``, or tasks of one job, ``J.i``."""

    job: int
    #: None: the whole job
    indices: Sequence[int] | None = None


#: ids by word
LAST, ALL = "last", "all"
_PIECE = re.compile(r"(?:(\d+)\.)?(\d+)(?:-(\d+))?(?::(\d+))?")


def ids(texts: Sequence[str]) -> list[Ids | str]:
    """Ids as people write them: ``17``, ``last``, ``all``, ``1-10:2``, ``1,3,5-8``, ``17.3``, ``17.0-9``.

    >>> ids(["1-2", "last", "7.0-2"])
    [Ids(job=1, indices=None), Ids(job=2, indices=None), 'last', Ids(job=7, indices=range(0, 3))]
    """
    found: list[Ids | str] = []
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        if piece.lower() in (LAST, ALL):
            found.append(piece.lower())
            continue
        match = _PIECE.fullmatch(piece)
        if match is None:
            raise UsageError(
                f"{piece!r} is not an id",
                fix="write 17, last, all, 1-10:2, 1,3,5-8, or 17.3 for one task of job 17",
            )
        first, last, step = match.group(2, 3, 4)
        numbers = _range(piece, first, last, step)
        found += [Ids(int(match[1]), numbers)] if match[1] else [Ids(job) for job in numbers]
    return found


def numbers(text: str) -> Iterator[int] | None:
    """The numbers of ``1-1000``, ``0-100:10``, ``1,3,5-8``; None: it is no such list."""
    pieces = []
    for piece in text.split(","):
        match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?(?::(\d+))?", piece.strip())
        if match is None:
            return None
        first, last, step = match.group(1, 2, 3)
        pieces.append(_range(piece, first, last, step, 2**62))
    return (number for piece in pieces for number in piece)


def _range(text: str, first: str, last: str | None, step: str | None, limit: int = IDS_MAX) -> range:
    low, high, by = int(first), int(last or first), int(step or 1)
    if high < low or by < 1:
        raise UsageError(f"{text!r} is an empty range", fix="write FIRST-LAST or FIRST-LAST:STEP")
    found = range(low, high + 1, by)
    if high - low >= limit:
        raise UsageError(f"{text!r} is more than {limit} ids")
    return found


def seconds(text: str) -> float:
    """How long to wait: a plain number is seconds, else as ``duration_s``."""
    from pyfi_hpc.client.options import duration_s

    try:
        return duration_s(float(text))
    except ValueError:
        return duration_s(text)
