"""Small pure parts of the ledger: intervals, gaps, statements by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.calls import parse_task
from pyfi_hpc.ledger.copy import intervals, text
from pyfi_hpc.ledger.queries import load
from pyfi_hpc.ledger.reading import gaps, value_at


@given(st.lists(st.integers(1, 60)))
def test_intervals_and_gaps_share_out_all_numbers(numbers: list[int]) -> None:
    """Any numbers: each is in one interval, every other one in one gap, and intervals never touch."""
    merged = intervals(numbers)
    holes = gaps(merged)
    for number in range(1, 80):
        inside = sum(lo <= number <= hi for lo, hi in merged)
        outside = sum(lo <= number <= hi for lo, hi in holes)
        assert (inside, outside) == ((1, 0) if number in numbers else (0, 1))
    assert all(left[1] + 1 < right[0] for left, right in zip(merged, merged[1:], strict=False))


def test_values_of_a_packed_column() -> None:
    """Without offsets every value is empty."""
    assert value_at(1, b"\0\0\0\0\2\0\0\0\5\0\0\0", b"abcde") == b"cde"
    assert value_at(7, b"", b"") == b""


def test_text_is_what_postgres_takes() -> None:
    """NUL has no place in it, half a character becomes a question mark."""
    assert text("a\0\ud800é") == b"a?\xc3\xa9"


@pytest.mark.parametrize("file", ["queries.sql", "reports.sql"])
def test_statements_have_names_and_no_comments(file: str) -> None:
    """Every statement of a file is found, and what is sent to the server is the statement alone."""
    found = load(file)
    assert len(found) > 10
    assert all(statement and "--" not in statement for statement in found.values())


def test_ids_of_tasks() -> None:
    """J is its first task."""
    assert (parse_task("12.3"), parse_task("12"), parse_task(12)) == ((12, 3), (12, 0), (12, 0))
    with pytest.raises(UsageError, match="not the id"):
        parse_task("12.x")
