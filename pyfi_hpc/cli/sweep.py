"""Arrays and sweeps as people type them: ``1-1000:5%20``, ``lr=0.1,0.01 seed=1:3``. Pure; raises UsageError."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product as cartesian
from typing import Any

from pyfi_hpc.cli import parse
from pyfi_hpc.errors import UsageError

#: values of one name in a sweep; the number of their combinations has no limit
VALUES_MAX = 1_000_000
_NUMBER = r"[+-]?(?:(?:0|[1-9]\d{0,30})(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?"
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d{0,30})")
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::({_NUMBER}))?")
#: a quoted text may hold commas; what is no JSON text is cut at the next one all the same
_PIECE = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,]*)\s*(?:,|$)')
_WORDS = {"true": True, "false": False, "null": None}


def array(text: str) -> tuple[Iterator[int], int]:
    """The numbers of an array and how many of its tasks may run at once (0: any number), as Slurm writes them.

    >>> numbers, at_once = array("1-10:4,20%2")
    >>> list(numbers), at_once
    ([1, 5, 9, 20], 2)
    """
    listed, percent, limit = text.partition("%")
    found = parse.numbers(listed)
    if found is None:
        raise UsageError(
            f"{text!r} is no range of numbers", where="map",
            fix="write 1-1000, 0-100:10 or 1,3,5-8, with %20 behind it for at most 20 at once; "
            "for combinations --product a=1:3 b=x,y; inputs from a file come with --each-line FILE",
        )  # fmt: skip
    if percent and not (limit.isascii() and limit.isdecimal() and 0 < int(limit[:9])):
        raise UsageError(
            f"{'%' + limit!r} does not say how many tasks may run at once", where=text, fix="write 1-1000%20"
        )
    return found, int(limit[:9]) if percent else 0


def axes(words: Sequence[str]) -> dict[str, Sequence[Any]]:
    """What ``--product`` runs over: each name with its values, in the order in which they were written.

    >>> axes(["a=1:3", "b=x,0.5"])
    {'a': range(1, 4), 'b': ['x', 0.5]}
    """
    found: dict[str, Sequence[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{word!r} is not NAME=VALUES", where="--product",
                fix="write the name of a parameter and its values: a=1:3 b=x,y",
            )  # fmt: skip
        if name in found:
            raise UsageError(f"{name} is given twice", where=word, fix=f"write all its values at once: {name}=1,2,7:9")
        found[name] = _values(word, text)
    return found


def combinations(found: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, as keyword arguments; the last name changes fastest."""
    return (dict(zip(found, values, strict=True)) for values in cartesian(*found.values()))


def _values(word: str, text: str) -> Sequence[Any]:
    if (one := _RANGE.fullmatch(text)) is not None:
        return _range(word, one)
    values: list[Any] = []
    at = 0
    while at <= len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise UsageError(
                f"{text[at:][:80]!r} is not a list of values", where=word,
                fix='put a comma behind a quoted text: "a","b"',
            )  # fmt: skip
        piece, at = match[1].strip(), max(match.end(), at + 1)
        values += _range(word, between) if (between := _RANGE.fullmatch(piece)) else [_value(word, piece)]
        if len(values) > VALUES_MAX:
            raise _too_many(word)
        if not match[0].endswith(","):
            break
    return values


def _value(word: str, piece: str) -> Any:
    """Numbers stay numbers, true, false and null what they are in JSON, all else is text; so is what is quoted."""
    if not piece:
        raise UsageError("there is an empty value", where=word, fix='write "" for an empty text')
    if _WHOLE.fullmatch(piece):
        return int(piece)
    if re.fullmatch(_NUMBER, piece):
        return _float(word, piece)
    if piece[0] == '"':
        try:
            return json.loads(piece)
        except ValueError:
            raise UsageError(f"{piece[:80]} is not a quoted text", where=word, fix='end it with " as in JSON') from None
    return _WORDS[piece] if piece in _WORDS else piece


def _range(word: str, match: re.Match[str]) -> Sequence[Any]:
    """``LO:HI`` or ``LO:HI:STEP``; both ends belong to it. Decimal: 0:1:0.1 has 0.3 and not 0.30000000000000004."""
    texts = [text for text in match.groups() if text is not None]
    whole = all(_WHOLE.fullmatch(text) for text in texts)
    if len(texts) < 3 and not whole:
        raise UsageError(f"{match[0]!r} does not say its step", where=word, fix=f"write {match[0]}:0.1")
    low, high, step = (Decimal(text) for text in (*texts, "1")[:3])
    if not step or (high - low) * step < 0:
        fix = f"write {low}:{high}:-1 to count down" if step > 0 else "write LO:HI or LO:HI:STEP"
        raise UsageError(f"{match[0]!r} is an empty range", where=word, fix=fix)
    if (high - low) / step >= VALUES_MAX:
        raise _too_many(word)
    count = math.floor((high - low) / step) + 1
    if whole:
        return range(int(low), int(low) + count * int(step), int(step))
    return [_float(word, low + number * step) for number in range(count)]


def _float(word: str, number: str | Decimal) -> float:
    value = float(number)
    if math.isinf(value):
        raise UsageError(f"{number} is larger than a number can be", where=word, fix="the largest is about 1e308")
    return value


def _too_many(word: str) -> UsageError:
    return UsageError(
        f"{word[:80]!r} is more than {VALUES_MAX:,} values", where="--product",
        fix="write them as JSON: --from-jsonl FILE",
    )  # fmt: skip
