"""The ranks of a node: who is alive, and what each has in flight."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pyfi_hpc.core.held import HeldGrant
from pyfi_hpc.model.ids import Peer

#: bundles in flight to a rank whose tasks are short: one runs, one is at hand
_IN_FLIGHT_MAX = 2


@dataclass(slots=True)
class Flight:
    """A bundle that a rank has: offsets ``next`` to ``hi`` of the batch are not done."""

    bundle: int
    grant: HeldGrant
    lo: int
    next: int
    hi: int
    seconds: float  #: what it is expected to take in all
    since: float = 0.0  #: when it became the first of its rank
    reclaimed: bool = False  #: tasks of it were asked back; not asked again


@dataclass(frozen=True, slots=True)
class Resting:
    """Why a rank gets no tasks, and until when."""

    until: float
    why: str


@dataclass(slots=True, eq=False)
class Rank:
    number: int
    peer: Peer
    pid: int
    core: int
    heard_at: float
    world_id: str = ""  #: its MPI world; empty: none
    flights: deque[Flight] = field(default_factory=deque)

    def line(self) -> int:
        """Tasks that it has and that are not done."""
        return sum(flight.hi - flight.next for flight in self.flights)

    def askable(self) -> bool:
        """Whether tasks of it can still be asked back."""
        return any(not flight.reclaimed for flight in self.flights)

    def room(self, second_s_max: float) -> bool:
        """Whether a bundle can go to it: idle, or what it has is short enough for another to wait behind it."""
        if not self.flights:
            return True
        return len(self.flights) < _IN_FLIGHT_MAX and self.flights[0].seconds <= second_s_max


class RankTable(dict[int, Rank]):
    """The ranks of a node by number.

    It knows which are idle, which take a second bundle and which have tasks in line: an event of one rank costs no look
    at all the others.

    Parameters
    ----------
    second_s_max : float
        A bundle may wait behind one that is expected to take no longer, seconds.
    """

    def __init__(self, second_s_max: float) -> None:
        super().__init__()
        self._second_s_max = second_s_max
        self.idle: dict[int, Rank] = {}
        self.roomy: dict[int, Rank] = {}  #: have one bundle, take another
        self.lined: dict[int, Rank] = {}  #: have more than the task that runs
        #: numbers of ranks that belong to a task with needs: they get nothing else, also who takes their place
        self.lent: set[int] = set()

    def add(self, rank: Rank) -> None:
        self[rank.number] = rank
        self.touched(rank)

    def remove(self, rank: Rank) -> None:
        if self.pop(rank.number, None) is not None:
            for table in (self.idle, self.roomy, self.lined):
                table.pop(rank.number, None)

    def touched(self, rank: Rank) -> None:
        """Its bundles have changed. Called after each change, or the tables are wrong."""
        flights, number = rank.flights, rank.number
        open_ = number not in self.lent
        _keep(self.idle, number, rank, open_ and not flights)
        _keep(self.roomy, number, rank, open_ and bool(flights) and rank.room(self._second_s_max))
        lined = len(flights) > 1 or (bool(flights) and flights[0].hi - flights[0].next > 1)
        _keep(self.lined, number, rank, lined)

    def lend(self, numbers: list[int]) -> None:
        """These are a task's now."""
        self.lent.update(numbers)
        self._touch(numbers)

    def take_back(self, numbers: list[int]) -> None:
        """That task has ended."""
        self.lent.difference_update(numbers)
        self._touch(numbers)

    def _touch(self, numbers: list[int]) -> None:
        for number in numbers:
            if number in self:
                self.touched(self[number])


def _keep(table: dict[int, Rank], number: int, rank: Rank, belongs: bool) -> None:
    if belongs:
        table[number] = rank
    else:
        table.pop(number, None)
