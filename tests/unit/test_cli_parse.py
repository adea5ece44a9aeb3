"""What people type: data, ids, ranges, how long to wait."""

from __future__ import annotations

from typing import Any

import pytest

from pyfi_hpc.cli import parse
from pyfi_hpc.cli.parse import Ids
from pyfi_hpc.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", ([7], {})),
        ('["a", 1]', (["a", 1], {})),
        ("['some data']", (["some data"], {})),
        ('{"n": 1}', ([], {"n": 1})),
        ("{'n': (1, 2)}", ([], {"n": (1, 2)})),
        ("{1: 2}", ([{1: 2}], {})),
        ("(1, 2)", ([(1, 2)], {})),
        ("null", ([None], {})),
        ("None", ([None], {})),
        ("hello world", (["hello world"], {})),
        ("", ([""], {})),
        ("[[1, 2]]", ([[1, 2]], {})),
        ("1e400j", ([complex(0, float("inf"))], {})),
    ],
)
def test_data_is_json_or_a_literal_or_text(text: str, expected: Any) -> None:
    """A list is the arguments one by one, an object those by name, anything else the one argument."""
    assert parse.arguments(text) == expected


@pytest.mark.parametrize("text", ["[1, 2", "{'a': open('x')}", "[__import__('os').system('id')]", "(1,"])
def test_data_is_never_evaluated(text: str) -> None:
    """What looks like a literal and is none is refused, code above all."""
    with pytest.raises(UsageError, match="neither JSON nor a Python literal"):
        parse.arguments(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["17"], [Ids(17)]),
        (["last", "ALL"], ["last", "all"]),
        (["1-10:4"], [Ids(1), Ids(5), Ids(9)]),
        (["1,3,5-6"], [Ids(1), Ids(3), Ids(5), Ids(6)]),
        (["17.3"], [Ids(17, range(3, 4))]),
        (["17.0-9:3"], [Ids(17, range(0, 10, 3))]),
    ],
)
def test_ids(texts: list[str], expected: Any) -> None:
    """Numbers, words, ranges with steps, lists, tasks of a job."""
    assert parse.ids(texts) == expected


@pytest.mark.parametrize("text", ["", "1.2.3", "x", "5-1", "1-3:0", "-1", "1-99999999"])
def test_ids_that_are_none(text: str) -> None:
    """Refused with how to write them."""
    with pytest.raises(UsageError):
        parse.ids([text])


def test_numbers_of_a_map() -> None:
    """A range is never spelled out in memory; other text is no range."""
    assert list(parse.numbers("1-5") or ()) == [1, 2, 3, 4, 5]
    assert list(parse.numbers("0-10:5,20,-2--1") or ()) == [0, 5, 10, 20, -2, -1]
    assert next(parse.numbers("1-1000000000000") or iter(())) == 1
    assert parse.numbers("a,b") is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("2m", 120), ("1:00:00", 3600), ("2h30m", 9000)]
)
def test_how_long_to_wait(text: str, seconds: float) -> None:
    """A plain number is seconds, as for timeout(1)."""
    assert parse.seconds(text) == seconds
