"""The feed: each result once, and a cursor behind which nothing is missing. Ranges in, ranges out."""

import pytest

from pyfi_hpc.client.feed import START, Feed, offsets_of, pack
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.messages import Range
from pyfi_hpc.model.states import TaskState


def piece(first, *values, state=TaskState.COMPLETED):
    offsets, payload = pack(values)
    return Range(first, len(values), bytes([state]) * len(values), offsets, payload)


def values(pieces):
    """{index: bytes} of ranges, read through their offsets."""
    found = {}
    for part in pieces:
        offsets = offsets_of(part.offsets)
        for i in range(part.count):
            found[part.first + i] = part.payload[offsets[i] : offsets[i + 1]]
    return found


def test_new_ranges_pass_whole():
    """A range that nobody has seen is passed on as the same object."""
    feed = Feed(4)
    new = piece(0, b"a", b"bb")
    assert feed.admit(new) == [new]
    assert (feed.count, feed.frontier, feed.complete) == (2, 2, False)
    feed.admit(piece(2, b"c", b"d"))
    assert feed.complete


def test_what_was_there_is_dropped():
    """The same range again gives nothing; an overlapping one only its new parts, in any order."""
    feed = Feed()
    feed.admit(piece(2, b"c", b"d"))
    assert feed.admit(piece(2, b"c", b"d")) == []
    parts = feed.admit(piece(0, b"a", b"b", b"X", b"X", b"e", b"f"))
    assert values(parts) == {0: b"a", 1: b"b", 4: b"e", 5: b"f"}
    assert (feed.count, feed.frontier) == (6, 6)


def test_the_frontier_waits_for_gaps():
    """The frontier is the first index that is missing, however much is behind it."""
    feed = Feed(6)
    feed.admit(piece(1, b"b"))
    assert feed.frontier == 0
    feed.admit(piece(3, b"d", b"e"))
    feed.admit(piece(0, b"a"))
    assert feed.frontier == 2
    feed.admit(piece(2, b"c"))
    assert feed.frontier == 5


def test_cursors_are_safe_once_nothing_before_them_is_missing():
    """A page's cursor counts only when the frontier has passed the page's end."""
    feed = Feed()
    assert feed.safe_cursor() == START
    feed.admit(piece(4, b"e"))
    feed.read((7, 4), [piece(4, b"e")])
    assert feed.safe_cursor() == START
    feed.admit(piece(0, b"a", b"b", b"c", b"d"))
    assert feed.safe_cursor() == (7, 4)
    assert feed.safe_cursor() == (7, 4), "asking again changes nothing"
    feed.admit(piece(5, b"f"))
    feed.read((9, 0), [piece(5, b"f")])
    assert feed.safe_cursor() == (9, 0)


@pytest.mark.parametrize(
    "bad",
    [
        Range(0, 2, b"\x03", b"\0" * 12, b""),
        Range(0, 1, b"\x03", b"\0" * 4, b""),
        Range(-1, 1, b"\x03", b"\0" * 8, b""),
        Range(5, 1, b"\x03", b"\0" * 8, b""),
        Range(1 << 40, 1, b"\x03", b"\0" * 8, b""),
    ],
)
def test_damaged_ranges_are_refused(bad):
    """A range that disagrees with itself or its job raises and leaves the feed as it was."""
    feed = Feed(5)
    with pytest.raises(RemoteProtocolError):
        feed.admit(bad)
    assert feed.count == 0
