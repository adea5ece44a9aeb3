"""What an agent holds for the broker: grants that are not done, outcomes that are not yet kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pyfi_hpc.model.budgets import ELSEWHERE
from pyfi_hpc.model.messages import Held, Item, Outcome
from pyfi_hpc.model.packed import cut, offsets_of
from pyfi_hpc.model.states import Cause

#: tasks that died of which it is remembered on which rank; then all are forgotten, and may meet it again
_DIED_MAX = 10_000


@dataclass(slots=True, eq=False)
class HeldGrant:
    item: Item
    #: one byte a task: 1 until the broker has kept its outcome
    unkept: bytearray
    #: one byte a task: 1 until there is an outcome
    owed: bytearray
    unkept_count: int


@dataclass(slots=True)
class Piece:
    """Tasks ``lo`` to ``hi`` (offsets in the batch) of a grant that no rank has yet."""

    grant: HeldGrant
    lo: int
    hi: int


class Holdings:
    """Grants in order of arrival, and outcomes until the broker says Kept."""

    def __init__(self) -> None:
        self.grants: dict[int, HeldGrant] = {}
        self.waiting: deque[Piece] = deque()
        self.waiting_count = 0
        #: (grant, lo) -> outcome and when it was offered last
        self.offered: dict[tuple[int, int], tuple[Outcome, float]] = {}
        #: (batch, offset) -> the rank on which it died, and when: the next attempt goes to another if it comes back
        self.died: dict[tuple[int, int], tuple[int, float]] = {}
        #: outcomes that go with the next message
        self.fresh: list[Outcome] = []

    def take(self, item: Item) -> HeldGrant:
        grant = HeldGrant(item, bytearray(b"\x01") * item.count, bytearray(b"\x01") * item.count, item.count)
        self.grants[item.grant] = grant
        return grant

    def wait(self, grant: HeldGrant, lo: int, hi: int, first: bool = False) -> None:
        if lo < hi:
            (self.waiting.appendleft if first else self.waiting.append)(Piece(grant, lo, hi))
            self.waiting_count += hi - lo

    def next_piece(self, count_max: int) -> Piece | None:
        """Take up to so many tasks of one grant from the front."""
        if not self.waiting:
            return None
        piece = self.waiting[0]
        if piece.hi - piece.lo <= count_max:
            self.waiting.popleft()
        else:
            piece = Piece(piece.grant, piece.lo, piece.lo + count_max)
            self.waiting[0].lo = piece.hi
        self.waiting_count -= piece.hi - piece.lo
        return piece

    def last_piece(self, count_max: int) -> Piece | None:
        """Take up to so many tasks of one grant from the back."""
        if not self.waiting:
            return None
        piece = self.waiting[-1]
        if piece.hi - piece.lo <= count_max:
            self.waiting.pop()
        else:
            piece = Piece(piece.grant, piece.hi - count_max, piece.hi)
            self.waiting[-1].hi = piece.lo
        self.waiting_count -= piece.hi - piece.lo
        return piece

    def drop_waiting(self, grant: HeldGrant, lo: int, hi: int) -> list[tuple[int, int]]:
        """Take the tasks of a range that wait here out of the line; the ranges found."""
        found: list[tuple[int, int]] = []
        rest: deque[Piece] = deque()
        for piece in self.waiting:
            start, end = max(lo, piece.lo), min(hi, piece.hi)
            if piece.grant is not grant or start >= end:
                rest.append(piece)
                continue
            found.append((start, end))
            self.waiting_count -= end - start
            rest.extend(p for p in (Piece(grant, piece.lo, start), Piece(grant, end, piece.hi)) if p.lo < p.hi)
        self.waiting = rest
        return found

    def ended(self, outcome: Outcome) -> None:
        """A rank's outcome, or one of our own making."""
        grant = self.grants.get(outcome.grant)
        if grant is None:
            return
        start = outcome.lo - grant.item.lo
        grant.owed[start : start + outcome.count] = bytes(outcome.count)
        self.fresh.append(outcome)

    def owes(self, outcome: Outcome) -> bool:
        """Whether there is no outcome yet for any of these tasks."""
        grant = self.grants[outcome.grant]
        start = outcome.lo - grant.item.lo
        return grant.owed.count(1, start, start + outcome.count) == outcome.count

    def note_deaths(self, rank: int, outcome: Outcome, now: float) -> None:
        """Remember where tasks died."""
        if len(self.died) > _DIED_MAX:
            self.died.clear()
        for at, cause in enumerate(outcome.causes):
            if cause in ELSEWHERE:
                self.died[outcome.batch, outcome.lo + at] = (rank, now)

    def make(self, grant: HeldGrant, lo: int, hi: int, cause: Cause, error: bytes = b"") -> None:
        """An outcome for tasks that no rank ran."""
        item, count = grant.item, hi - lo
        self.ended(
            Outcome(
                item.grant, item.batch, lo, count, item.attempt, -1, bytes([cause]) * count, bytes(8 * count),
                bytes(4 * count), offsets_of([error] * count), error * count,
            )  # fmt: skip
        )

    def offer(self, now: float) -> list[Outcome]:
        """Outcomes to send now."""
        outcomes, self.fresh = self.fresh, []
        for outcome in outcomes:
            self.offered[outcome.grant, outcome.lo] = (outcome, now)
        return outcomes

    def offer_again(self, before: float, now: float) -> list[Outcome]:
        """Outcomes that were offered before that time and are not kept."""
        due = [key for key, (_, at) in self.offered.items() if at < before]
        for key in due:
            self.offered[key] = (self.offered[key][0], now)
        return [self.offered[key][0] for key in due]

    def kept(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        for grant_id, lo, count in ranges:
            self.offered.pop((grant_id, lo), None)
            grant = self.grants.get(grant_id)
            if grant is None:
                continue
            start = lo - grant.item.lo
            grant.unkept_count -= grant.unkept.count(1, start, start + count)
            grant.unkept[start : start + count] = bytes(count)
            if grant.unkept_count == 0:
                del self.grants[grant_id]

    def tell(self) -> list[Held]:
        """All that is not kept, for Hello."""
        return [
            Held(g.item.grant, g.item.batch, g.item.lo, g.item.count, g.item.attempt, bytes(g.unkept))
            for g in self.grants.values()
        ]

    @property
    def empty(self) -> bool:
        return not (self.grants or self.fresh)


def payload_of(piece: Piece) -> tuple[bytes, bytes, list[list[bytes]]]:
    """Offsets, payload and inputs of the tasks of a piece."""
    item = piece.grant.item
    lo, hi = piece.lo - item.lo, piece.hi - item.lo
    offsets, payload = cut(item.offsets, item.payload, lo, hi)
    return offsets, payload, item.inputs[lo:hi] if item.inputs else []
