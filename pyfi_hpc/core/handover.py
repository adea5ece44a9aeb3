"""Results that go from one task of a node to another there, without a way to the broker: core/follow.py.

A task that takes such results is known here from its grant until all of them are there or one of them will not come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyfi_hpc.model.messages import Link

if TYPE_CHECKING:
    from pyfi_hpc.core.held import HeldGrant


@dataclass(slots=True, eq=False)
class Taker:
    """A task that waits for results of others."""

    grant: HeldGrant
    offset: int
    lacks: int = 0  #: results that are not there


class Handover:
    """Who takes whose result.

    Parameters
    ----------
    bytes_max : int
        Results that were handed over and whose takers have not ended; a taker of more goes back to the broker.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._bytes_of: dict[Link, int] = {}
        self._takers: dict[Link, Taker] = {}
        #: who makes a result -> who takes it, and in which slot
        self._awaited: dict[Link, list[tuple[Taker, int]]] = {}

    def __bool__(self) -> bool:
        """Whether an outcome can matter to anybody here."""
        return bool(self._awaited or self._bytes_of)

    def add(self, grant: HeldGrant, offset: int, makers: list[tuple[int, Link]]) -> None:
        """A task takes results, (slot, who makes it), which are still being made."""
        taker = self._takers[grant.item.grant, offset] = Taker(grant, offset, len(makers))
        for slot, link in makers:
            self._awaited.setdefault(link, []).append((taker, slot))

    def put(self, grant: HeldGrant, offset: int, slot: int, data: bytes) -> bool:
        """Fill a slot of a task; False: that is too much to be kept here."""
        if self._bytes + len(data) > self._bytes_max:
            return False
        key = grant.item.grant, offset
        self._bytes += len(data)
        self._bytes_of[key] = self._bytes_of.get(key, 0) + len(data)
        grant.item.inputs[offset - grant.item.lo][slot] = data
        return True

    def made(self, link: Link, data: bytes) -> tuple[list[Taker], list[Taker]]:
        """A result is there: tasks that have all of theirs now, and tasks that cannot be kept here."""
        ready, lost = [], []
        for taker, slot in self._awaited.pop(link, ()):
            if not self._is_here(taker):
                continue
            taker.lacks -= 1
            if not self.put(taker.grant, taker.offset, slot, data):
                lost.append(self._drop(taker))
            elif not taker.lacks:
                ready.append(self._drop(taker))
        return ready, lost

    def lost(self, link: Link) -> list[Taker]:
        """A result will not come: the tasks that wait for it go back."""
        return [self._drop(taker) for taker, _ in self._awaited.pop(link, ()) if self._is_here(taker)]

    def awaits(self, link: Link) -> bool:
        return link in self._awaited

    def ended(self, link: Link) -> None:
        """A task has its outcome: what it took is not needed any more."""
        self._bytes -= self._bytes_of.pop(link, 0)

    def drop(self, grant: HeldGrant, lo: int, hi: int) -> list[int]:
        """Tasks of a grant are not to run: which of a range were waiting here."""
        found = [self._takers.get((grant.item.grant, offset)) for offset in range(lo, hi)] if self._takers else []
        return [self._drop(taker).offset for taker in found if taker is not None]

    def drop_all(self) -> list[Taker]:
        return [self._drop(taker) for taker in list(self._takers.values())]

    def _is_here(self, taker: Taker) -> bool:
        return self._takers.get((taker.grant.item.grant, taker.offset)) is taker

    def _drop(self, taker: Taker) -> Taker:
        del self._takers[taker.grant.item.grant, taker.offset]
        return taker
