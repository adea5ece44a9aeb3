"""Arrays and sweeps as people type them, and what the map command makes of its inputs."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.cli import sweep
from pyfi_hpc.cli.items import between_nuls, lines_of
from pyfi_hpc.cli.map import _calls
from pyfi_hpc.errors import UsageError


@pytest.mark.parametrize(
    ("text", "numbers", "at_once"),
    [
        ("1-5", [1, 2, 3, 4, 5], 0),
        ("1-10:5", [1, 6], 0),
        ("1,3,7-9", [1, 3, 7, 8, 9], 0),
        ("0-15:5%4", [0, 5, 10, 15], 4),
        ("7%1", [7], 1),
    ],
)
def test_arrays_as_slurm_writes_them(text: str, numbers: list[int], at_once: int) -> None:
    """Ranges with steps, lists, and a limit behind them."""
    found, limit = sweep.array(text)
    assert (list(found), limit) == (numbers, at_once)


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "5-1", "1-3:0", "1-3%", "1-3%0", "1-3%x", "1-3%-2", "%5", "1%2%3", "1-3%²"]
)
def test_arrays_that_are_none(text: str) -> None:
    """Refused with how to write them."""
    with pytest.raises(UsageError) as raised:
        sweep.array(text)
    assert raised.value.fix


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:3", [1, 2, 3]),
        ("-1:1", [-1, 0, 1]),
        ("10:0:-5", [10, 5, 0]),
        ("0:1:0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3]),
        ("1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("x,y", ["x", "y"]),
        ("x, 2 ,3.5,.5,1e3,-4", ["x", 2, 3.5, 0.5, 1000.0, -4]),
        ("1:3,10,20:40:10", [1, 2, 3, 10, 20, 30, 40]),
        ("true,false,null", [True, False, None]),
        ('"1","a,b",""', ["1", "a,b", ""]),
        ("007,1_000,0x10,inf,nan,True", ["007", "1_000", "0x10", "inf", "nan", "True"]),
        ("12:30x,C:/data,a=b", ["12:30x", "C:/data", "a=b"]),
        ("é,日本", ["é", "日本"]),
    ],
)
def test_values_of_a_name(text: str, values: list[Any]) -> None:
    """Numbers stay numbers of their kind, quoted and other things are text."""
    found = list(sweep.axes([f"a={text}"])["a"])
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("a", "NAME=VALUES"), ("=1", "NAME=VALUES"), ("1a=2", "NAME=VALUES"), ("a b=2", "NAME=VALUES"),
        ("a=", "empty value"), ("a=1,", "empty value"), ("a=,1", "empty value"), ("a=1,,2", "empty value"),
        ("a=5:1", "empty range"), ("a=1:5:-1", "empty range"), ("a=1:5:0", "empty range"),
        ("a=0.1:0.5", "its step"), ("a=1:99999999", "more than"), ("a=0:1:1e-9", "more than"),
        ("a=0:1e300:1", "more than"), ('a="x', "quoted"), ('a="x"y', "quoted"), ('a="x"y,"z"', "quoted"),
        ('a="\\q"', "quoted"), ("a=1e999", "larger"), ("a=1e999:1e999:1", "larger"),
    ],
)  # fmt: skip
def test_values_that_are_none(word: str, told: str) -> None:
    """Refused with what is wrong with which word."""
    with pytest.raises(UsageError, match=told) as raised:
        sweep.axes([word])
    assert raised.value.fix


@given(st.text(max_size=40))
def test_any_text_is_values_or_a_usage_error(text: str) -> None:
    """Nothing that somebody types raises anything else, or takes more memory than the limit."""
    try:
        found = sweep.axes([f"a={text}"])["a"]
    except UsageError:
        return
    assert 0 < len(found) <= sweep.VALUES_MAX


def test_combinations_in_order() -> None:
    """The last name changes fastest; a name that is given twice is refused."""
    found = list(sweep.combinations(sweep.axes(["a=1:2", "b=x,y"])))
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    with pytest.raises(UsageError, match="twice"):
        sweep.axes(["a=1", "a=2"])
    large = sweep.combinations(sweep.axes(["a=1:1000000", "b=1:1000000"]))
    assert next(large) == {"a": 1, "b": 1}


class Named(io.BytesIO):
    name = "input"


def test_lines_are_kept_as_they_are() -> None:
    """Blank lines, spaces, quotes, carriage returns at the end, bytes that are no UTF-8."""
    file = Named(b" a 'b\r\n\n\xff.dat\nlast")
    assert list(lines_of(file)) == [" a 'b", "", os.fsdecode(b"\xff.dat"), "last"]


def test_items_between_nuls() -> None:
    """Newlines are part of an item; the last one may end with the input; endless ones are refused."""
    read, write = os.pipe()
    with open(read, "rb") as file:
        os.write(write, b"a\nb\0\0c")
        os.close(write)
        assert list(between_nuls(file)) == ["a\nb", "", "c"]
    with open("/dev/zero", "rb") as zeros:
        assert next(between_nuls(zeros)) == ""


def test_records_are_arguments() -> None:
    """A list one by one, an object by name, anything else alone; blank lines are passed over."""
    calls, at_once = _calls((), None, Named(b'[1, "a"]\n\n{"n": 2}\n7\nnull\n"t"\n[]\n'), False)
    assert at_once == 0
    assert list(calls) == [((1, "a"), {}), ((), {"n": 2}), ((7,), {}), ((None,), {}), (("t",), {}), ((), {})]


@pytest.mark.parametrize("line", [b"{", b"x", b"'a'", b"\xff", b"[" * 100_000])
def test_records_that_are_none(line: bytes) -> None:
    """The line is named."""
    calls, _ = _calls((), None, Named(b"1\n" + line + b"\n"), False)
    with pytest.raises(UsageError, match="line 2 is not JSON"):
        list(calls)
