"""What an agent holds for the broker: grants that are not done, outcomes that are not yet kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from pyfi_hpc.core.handover import Handover, Taker
from pyfi_hpc.model.budgets import ELSEWHERE
from pyfi_hpc.model.messages import Held, Item, Link, Outcome
from pyfi_hpc.model.packed import cut, offsets_of, pick
from pyfi_hpc.model.states import Cause

#: tasks that died of which it is remembered on which rank; then all are forgotten, and may meet it again
_DIED_MAX = 10_000


@dataclass(slots=True)
class Parts:
    """Ends of the ranks that run one task together on this node: one outcome in all."""

    left: int
    leader: int  #: number of the rank whose result counts
    result: Outcome | None = None
    failure: Outcome | None = None

    def take(self, outcome: Outcome) -> Outcome | None:
        """One rank has ended; when all have, how the task did here. The first bad end counts, else the leader's."""
        self.left -= 1
        if outcome.causes[0] not in (Cause.NONE, Cause.CONTINUED):
            self.failure = self.failure or outcome
        elif self.result is None or outcome.rank == self.leader:
            self.result = outcome
        return None if self.left else self.failure or self.result


@dataclass(slots=True, eq=False)
class HeldGrant:
    item: Item
    #: one byte a task: 1 until the broker has kept its outcome
    unkept: bytearray
    #: one byte a task: 1 until there is an outcome
    owed: bytearray
    unkept_count: int
    #: it makes room: what ranks hand back of it goes to the broker
    unwanted: bool = False
    #: outcomes that are not kept, by their first offset
    told: dict[int, Outcome] = field(default_factory=dict)
    #: results that its tasks take of others here: offset, slot, who makes it
    takes: list[tuple[int, int, int, int]] = field(default_factory=list)
    #: while several ranks here run its task
    parts: Parts | None = None

    def owes(self, offset: int) -> bool:
        """Whether a task has no outcome yet."""
        at = offset - self.item.lo
        return 0 <= at < len(self.owed) and bool(self.owed[at])

    def result(self, offset: int) -> bytes | None:
        """What a task returned, while that is not kept; None: it did not return, or the broker has it."""
        for lo, outcome in self.told.items():
            at = offset - lo
            if 0 <= at < outcome.count:
                done = outcome.causes[at] == Cause.NONE
                return pick(outcome.offsets, outcome.payload, at) if done else None
        return None


@dataclass(slots=True)
class Piece:
    """Tasks ``lo`` to ``hi`` (offsets in the batch) of a grant that no rank has yet."""

    grant: HeldGrant
    lo: int
    hi: int


class Holdings:
    """Grants in order of arrival, and outcomes until the broker says Kept.

    Parameters
    ----------
    handed_bytes_max : int
        See Handover.
    """

    def __init__(self, handed_bytes_max: int) -> None:
        #: tasks that first want results of others here
        self._handover = Handover(handed_bytes_max)
        self.grants: dict[int, HeldGrant] = {}
        self.waiting: deque[Piece] = deque()
        self.waiting_count = 0
        #: the same for tasks with needs, which do not count there: see core/placing.py
        self.special: deque[Piece] = deque()
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

    def line_up(self, grant: HeldGrant) -> None:
        """Tasks of a new grant wait for a rank, or before that for results of others here."""
        item = grant.item
        links = [
            (at, [(slot, value) for slot, value in enumerate(values) if not isinstance(value, bytes)])
            for at, values in enumerate(item.inputs)
        ]
        if not any(makers for _, makers in links):
            self.wait(grant, item.lo, item.lo + item.count)
            return
        for at, makers in links:
            if not makers:
                self.wait(grant, item.lo + at, item.lo + at + 1)
            else:
                self._link(grant, item.lo + at, makers)

    def _link(self, grant: HeldGrant, offset: int, makers: list[tuple[int, Link]]) -> None:
        """A task takes results of others here: some may be there, some may never come."""
        lacks = []
        for slot, link in makers:
            grant.takes.append((offset, slot, *link))
            maker = self.grants.get(link[0])
            if maker is not None and maker.owes(link[1]):
                lacks.append((slot, link))
                continue
            data = maker.result(link[1]) if maker is not None else None
            if data is None or not self._handover.put(grant, offset, slot, data):
                self.make(grant, offset, offset + 1, Cause.RELEASED)
                return
        if lacks:
            self._handover.add(grant, offset, lacks)
        else:
            self.wait(grant, offset, offset + 1)

    def wait(self, grant: HeldGrant, lo: int, hi: int, first: bool = False) -> None:
        if lo >= hi:
            return
        line = self.special if grant.item.terms else self.waiting
        if line is self.waiting:
            self.waiting_count += hi - lo
        if first:
            line.appendleft(Piece(grant, lo, hi))
        elif line and line[-1].grant is grant and line[-1].hi == lo:
            line[-1].hi = hi
        else:
            line.append(Piece(grant, lo, hi))

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
        """Take up to so many tasks of one grant from the back; those with needs only after all others."""
        line = self.waiting or self.special
        if not line:
            return None
        piece = line[-1]
        if piece.hi - piece.lo <= count_max:
            line.pop()
        else:
            piece = Piece(piece.grant, piece.hi - count_max, piece.hi)
            line[-1].hi = piece.lo
        if line is self.waiting:
            self.waiting_count -= piece.hi - piece.lo
        return piece

    def drop_waiting(self, grant: HeldGrant, lo: int, hi: int) -> list[tuple[int, int]]:
        """Take the tasks of a range that wait here out of the line; the ranges found."""
        found = [(offset, offset + 1) for offset in self._handover.drop(grant, lo, hi)]
        rest: deque[Piece] = deque()
        line = self.special if grant.item.terms else self.waiting
        for piece in line:
            start, end = max(lo, piece.lo), min(hi, piece.hi)
            if piece.grant is not grant or start >= end:
                rest.append(piece)
                continue
            found.append((start, end))
            if line is self.waiting:
                self.waiting_count -= end - start
            rest.extend(p for p in (Piece(grant, piece.lo, start), Piece(grant, end, piece.hi)) if p.lo < p.hi)
        line.clear()
        line.extend(rest)
        return found

    def ended(self, outcome: Outcome) -> None:
        """A rank's outcome, or one of our own making."""
        grant = self.grants.get(outcome.grant)
        if grant is None:
            return
        if grant.parts is not None:
            whole = grant.parts.take(outcome)
            if whole is None:
                return
            outcome, grant.parts = whole, None
        start = outcome.lo - grant.item.lo
        grant.owed[start : start + outcome.count] = bytes(outcome.count)
        grant.told[outcome.lo] = outcome
        self.fresh.append(outcome)
        if self._handover:
            self._hand_over(outcome)

    def _hand_over(self, outcome: Outcome) -> None:
        """Give results to those who take them; who cannot have his goes back, and so do those who take of him."""
        back: list[Taker] = []
        for at in range(outcome.count):
            link = (outcome.grant, outcome.lo + at)
            self._handover.ended(link)
            if not self._handover.awaits(link):
                continue
            if outcome.causes[at] != Cause.NONE:
                back += self._handover.lost(link)
                continue
            ready, lost = self._handover.made(link, pick(outcome.offsets, outcome.payload, at))
            back += lost
            for taker in ready:
                self.wait(taker.grant, taker.offset, taker.offset + 1)
        self._send_back(back)

    def _send_back(self, takers: list[Taker]) -> None:
        """A list, not a recursion: what follows what may be some thousand tasks deep."""
        while takers:
            taker = takers.pop()
            link = (taker.grant.item.grant, taker.offset)
            self._handover.ended(link)
            takers += self._handover.lost(link)
            outcome = _unrun(taker.grant.item, taker.offset, 1, Cause.RELEASED, b"")
            taker.grant.owed[taker.offset - taker.grant.item.lo] = 0
            taker.grant.told[outcome.lo] = outcome
            self.fresh.append(outcome)

    def release_all(self) -> None:
        """Give back what no rank has."""
        while (piece := self.last_piece(1 << 30)) is not None:
            self.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)
        self._send_back(self._handover.drop_all())

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
        self.ended(_unrun(grant.item, lo, hi - lo, cause, error))

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
            grant.told.pop(lo, None)
            start = lo - grant.item.lo
            grant.unkept_count -= grant.unkept.count(1, start, start + count)
            grant.unkept[start : start + count] = bytes(count)
            if grant.unkept_count == 0:
                del self.grants[grant_id]

    def tell(self, running: Container[int]) -> list[Held]:
        """All that is not kept, for Hello. ``running``: grants whose task a rank has, or is lent to."""
        found = []
        for g in self.grants.values():
            item, gang = g.item, g.item.gang
            held = Held(
                item.grant, item.batch, item.lo, item.count, item.attempt, bytes(g.unkept), g.takes, item.terms
            )
            if gang is not None:
                held.here, held.total, held.leader = gang.here, gang.total, gang.leader
                held.begun = item.grant in running or not any(g.owed)
            found.append(held)
        return found

    @property
    def empty(self) -> bool:
        return not (self.grants or self.fresh)


def _unrun(item: Item, lo: int, count: int, cause: Cause, error: bytes) -> Outcome:
    return Outcome(
        item.grant, item.batch, lo, count, item.attempt, -1, bytes([cause]) * count, bytes(8 * count),
        bytes(4 * count), offsets_of([error] * count), error * count,
    )  # fmt: skip


def payload_of(piece: Piece) -> tuple[bytes, bytes, list[list[bytes]]]:
    """Offsets, payload and inputs of the tasks of a piece."""
    item = piece.grant.item
    lo, hi = piece.lo - item.lo, piece.hi - item.lo
    offsets, payload = cut(item.offsets, item.payload, lo, hi)
    # no task is in line before all that it takes is there
    return offsets, payload, item.inputs[lo:hi] if item.inputs else []  # type: ignore[return-value]
