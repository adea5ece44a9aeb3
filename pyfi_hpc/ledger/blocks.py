"""Large arguments and results: cut into blocks, and what is equal is stored once.

::

    payload of a batch          |--- array ---|- number -|--- array ---|- number -|
    blocks, by their numbers    |  7  |  8  | 9          |  7  |  8  | 10         |

A model or a matrix that is given to a thousand calls comes a thousand times. Each large value is cut from its start
in steps of ``BLOCK_BYTES``; a block whose bytes this broker has stored lately is referred to by its number. So what
differs costs itself and what follows it in its block. Blocks are rows of the ledger, written in the transaction of the
batch that brings them: a batch whose commit is known has its blocks. What a broker knows it forgets when it ends:
then a block is stored once more, which is harmless.

Blocks are worth it without repetition too. COPY fills pages with rows of ``ROW_BYTES``; what is larger it takes apart
by itself, into four times as many rows, each logged alone (perf/README.md has the figures).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from struct import Struct

#: jobs in one partition of the big tables
PARTITION_JOBS = 100_000
#: the number of a block is that of its partition, and so many bits of its own
BLOCK_NUMBER_BITS = 40
#: what is compared and referred to at once; a value that is smaller is not cut
BLOCK_BYTES = 64_000
#: what of a block is one row: one fits a page of 8 KiB
ROW_BYTES = 8_000
#: batches whose tasks are smaller on average are left alone: to look at each task costs more than it brings
_MEAN_BYTES_MIN = 4_096
#: blocks that are remembered, 2 GB of them in about 8 MB; the one that was used longest ago is forgotten first
_KNOWN_MAX = 1 << 15

_row = Struct(">h iq ih i").pack


class Blocks:
    """The blocks that this broker has stored lately, by what is in them.

    Parameters
    ----------
    job : int
        The next job's number; blocks go into its partition, or into a later one.
    highest : int
        The highest number of a block in the ledger.
    """

    def __init__(self, job: int = 0, highest: int = 0) -> None:
        self._partition = job // PARTITION_JOBS
        self._next = max(highest + 1, self._partition << BLOCK_NUMBER_BITS)
        self._known: OrderedDict[bytes, int] = OrderedDict()
        #: those of the group that is being written: known when it is committed
        self._new: dict[bytes, int] = {}

    def begin(self) -> None:
        """A group is packed, perhaps once more: what it brings is not in the ledger yet."""
        self._new.clear()

    def committed(self) -> None:
        """The group is in the ledger."""
        self._known.update(self._new)
        self._new.clear()
        while len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)

    def cut(self, job: int, offsets: bytes, payload: bytes, rows: list[bytes | memoryview]) -> list[int] | None:
        """Numbers of the blocks of a payload, None if it is not to be cut; those that are new are added to ``rows``.

        Cost: 0.8 ms a MB to compare.
        """
        bounds = _bounds(offsets, len(payload))
        if not bounds:
            return None
        self._turn_to(job)
        found = []
        view = memoryview(payload)
        for lo, hi in _steps(bounds):
            digest = sha256(view[lo:hi]).digest()
            number = self._find(digest)
            if number is None:
                number = self._new[digest] = self._next
                self._next += 1
                _add_rows(rows, number, view[lo:hi])
            found.append(number)
        return found

    def _turn_to(self, job: int) -> None:
        """A batch refers to no partition of blocks before its own: so the oldest partitions can go together."""
        if job // PARTITION_JOBS > self._partition:
            self._partition = job // PARTITION_JOBS
            self._next = self._partition << BLOCK_NUMBER_BITS
            self._known.clear()
            self._new.clear()

    def _find(self, digest: bytes) -> int | None:
        number = self._known.get(digest)
        if number is None:
            return self._new.get(digest)
        self._known.move_to_end(digest)
        return number


def _bounds(offsets: bytes, size: int) -> list[int]:
    """Where large values start, and the ends of the whole; empty: it has none."""
    count = len(offsets) // 4 - 1
    if size < BLOCK_BYTES or size < count * _MEAN_BYTES_MIN:
        return []
    places = array("I", offsets)
    starts = [lo for lo, hi in zip(places, places[1:], strict=False) if hi - lo >= BLOCK_BYTES]
    return sorted({0, *starts, size}) if starts else []


def _steps(bounds: list[int]) -> Iterator[tuple[int, int]]:
    for start, end in zip(bounds, bounds[1:], strict=False):
        for lo in range(start, end, BLOCK_BYTES):
            yield lo, min(lo + BLOCK_BYTES, end)


def _add_rows(rows: list[bytes | memoryview], number: int, block: memoryview) -> None:
    for part, at in enumerate(range(0, len(block), ROW_BYTES)):
        data = block[at : at + ROW_BYTES]
        rows.append(_row(3, 8, number, 2, part, len(data)))
        rows.append(data)
