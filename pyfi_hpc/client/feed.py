"""A feed: which results of one job are here, each index once, and from where to read on.

Results come twice at times: pushed as they become final, and in pages read after a lost connection. The feed
lets each index through once. It also knows a cursor before which nothing is missing: pages come in the order
of the job's indexes, so a page's cursor is safe as soon as every index up to the page's end is here.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.messages import Range

Cursor = tuple[int, int]
START: Cursor = (0, -1)
#: more tasks than any job has; an index above it is damage, not data
_INDEX_MAX = 1 << 32


class Feed:
    """Bookkeeping of one job's results; one byte per task."""

    __slots__ = ("_checkpoints", "count", "frontier", "states", "total")

    def __init__(self, total: int = -1) -> None:
        #: tasks of the job, -1 while batches may follow
        self.total = total
        #: final state by index, 0 where none has come
        self.states = bytearray()
        #: results that are here
        self.count = 0
        #: every index below it is here
        self.frontier = 0
        self._checkpoints: deque[tuple[int, Cursor]] = deque()

    @property
    def complete(self) -> bool:
        return self.count == self.total

    def admit(self, piece: Range) -> list[Range]:
        """What of the range is new, cut where some of it was here already; usually the range itself.

        Raises
        ------
        RemoteProtocolError
            The range disagrees with itself or lies outside of the job.
        """
        first, end = piece.first, piece.first + piece.count
        if not (
            0 <= first <= end < _INDEX_MAX
            and len(piece.states) == piece.count
            and len(piece.offsets) == 4 * (piece.count + 1)
            and (self.total < 0 or end <= self.total)
        ):
            raise RemoteProtocolError(
                f"a range of results does not fit its job: {first}+{piece.count} of {self.total}"
            )
        if len(self.states) < end:
            self.states.extend(bytes(end - len(self.states)))
        known = piece.count - self.states.count(0, first, end)
        new = [piece] if known == 0 else [] if known == piece.count else self._cut(piece)
        for part in new:
            self.states[part.first : part.first + part.count] = part.states
            self.count += part.count
        if new and self.states[self.frontier]:
            gap = self.states.find(0, self.frontier)
            self.frontier = len(self.states) if gap < 0 else gap
        return new

    def _cut(self, piece: Range) -> list[Range]:
        parts: list[Range] = []
        at, end = piece.first, piece.first + piece.count
        while (lo := self.states.find(0, at, end)) >= 0:
            hi = lo
            while hi < end and not self.states[hi]:
                hi += 1
            a, b = lo - piece.first, hi - piece.first
            parts.append(
                Range(lo, b - a, piece.states[a:b], piece.offsets[4 * a : 4 * (b + 1)], piece.payload)
            )
            at = hi
        return parts

    def read(self, cursor: Cursor, ranges: Sequence[Range]) -> None:
        """A page ended at this cursor."""
        if ranges:
            self._checkpoints.append((max(piece.first + piece.count for piece in ranges), cursor))

    def safe_cursor(self) -> Cursor:
        """The furthest cursor before which no result is missing."""
        safe = START
        while self._checkpoints and self._checkpoints[0][0] <= self.frontier:
            safe = self._checkpoints.popleft()[1]
        if safe != START:
            self._checkpoints.appendleft((0, safe))
        return safe


def offsets_of(data: bytes) -> Sequence[int]:
    """Offsets as travelled (little-endian uint32, one more than there are tasks) to integers."""
    offsets = array("I")
    offsets.frombytes(data)
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def pack(payloads: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Payloads of a batch to (offsets, payload) as they travel. Cost: 0.1 us a task."""
    offsets = array("I", accumulate(map(len, payloads), initial=0))
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets.tobytes(), b"".join(payloads)
