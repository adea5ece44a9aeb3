"""Placing: which ranks and GPUs of a node a task with needs gets.

Such a task runs on one rank and borrows the cores of others: they are lent to it and get nothing else until it has
ended. The first in line gathers ranks as they fall idle; meanwhile these run what is known to end before the last of
them is there. The broker counts what fits (core/fits.py), so what is in line here will get its ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyfi_hpc.core.held import Holdings, Piece
from pyfi_hpc.core.ranks import Flight, Rank, RankTable
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.model.terms import Needs, Terms, decode

#: a task that is put in front of a gathering one is to end by this part of the time that is left
_BACKFILL = 0.8
#: what numeric libraries read when they start
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(slots=True, eq=False)
class Placement:
    """What one task has while it runs."""

    rank: Rank
    flight: Flight
    lent: list[int]  #: numbers of its ranks, its own first
    gpus: list[tuple[int, int]] = field(default_factory=list)  #: (which, thousandths)


#: gives the tasks of a piece to a rank, with these variables and cores
Send = Callable[[Rank, Piece, list[tuple[str, str]], list[int]], Flight]


class Placer:
    """Places tasks with needs on one node.

    Parameters
    ----------
    holdings : Holdings
    ranks : RankTable
    inventory : Inventory
    """

    def __init__(self, holdings: Holdings, ranks: RankTable, inventory: Inventory) -> None:
        self._holdings, self._ranks = holdings, ranks
        self._gpus = inventory.gpus
        self._gpu_left = [1000] * len(inventory.gpus)
        self._placements: list[Placement] = []
        #: idle ranks that wait for others, and until when they are thought to, monotonic seconds
        self.reserved: frozenset[int] = frozenset()
        self.reserved_until = 0.0
        #: what plain tasks find in their environment
        self.plain_variables = [(_VISIBLE, "")] if inventory.gpus else []

    @property
    def busy(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._placements or self._holdings.special or self.reserved)

    def tasks(self) -> int:
        """Tasks with needs that are here."""
        return len(self._placements) + sum(piece.hi - piece.lo for piece in self._holdings.special)

    def taken(self) -> int:
        """Ranks that are lent or reserved."""
        return len(self._ranks.lent) + len(self.reserved)

    def fill(self, usable: int, idle: list[Rank], ready: Callable[[int], bool], send: Send, now: float) -> None:
        """Start what can start. ``idle``: ranks that may get tasks, ``ready``: whether some code can run here."""
        self._sweep()
        self.reserved = frozenset()
        line = self._holdings.special
        for _ in range(len(line)):
            piece = line[0]
            item = piece.grant.item
            if not ready(item.code):
                line.rotate(-1)
                continue
            terms = decode(item.terms)
            width = usable if terms.exclusive else min(terms.cores, usable)
            while piece.lo < piece.hi:
                free = [rank for rank in idle if rank.number in self._ranks.idle]
                if len(free) < width:
                    self._reserve(free, width, now)
                    return
                gpus = self._pick_gpus(terms)
                if gpus is None:
                    return  # a part of one is in the way, and ends
                chosen = _neighbours(free, width)
                one = Piece(piece.grant, piece.lo, piece.lo + 1)
                piece.lo += 1
                if piece.lo == piece.hi:
                    line.popleft()
                self._place(one, terms, chosen, gpus, send)

    def _place(self, piece: Piece, terms: Terms, ranks: list[Rank], gpus: list[tuple[int, int]], send: Send) -> None:
        cores = sorted(rank.core for rank in ranks if rank.core >= 0)
        variables = self._variables(terms, gpus, len(ranks))
        own = cores if len(cores) == len(ranks) > 1 else []
        flight = send(ranks[0], piece, variables, own)
        for which, part in gpus:
            self._gpu_left[which] -= part
        lent = [rank.number for rank in ranks]
        self._placements.append(Placement(ranks[0], flight, lent, gpus))
        self._ranks.lend(lent)

    def _variables(self, terms: Terms, gpus: list[tuple[int, int]], cores: int) -> list[tuple[str, str]]:
        found = [(_VISIBLE, ",".join(self._gpus[which] for which, _ in gpus))] if self._gpus else []
        threads = terms.threads or cores
        return found + [(name, str(threads)) for name in _THREADS] if threads > 1 else found

    def _pick_gpus(self, needs: Needs) -> list[tuple[int, int]] | None:
        """GPUs for one rank: whole ones, or the fullest one that still has the part; None: not now."""
        wanted = needs.gpu_thousandths
        if not wanted:
            return []
        if wanted < 1000:
            fits = [(left, which) for which, left in enumerate(self._gpu_left) if left >= wanted]
            return [(min(fits)[1], wanted)] if fits else None
        free = [which for which, left in enumerate(self._gpu_left) if left == 1000]
        count = wanted // 1000
        return [(which, 1000) for which in free[:count]] if len(free) >= count else None

    def _reserve(self, free: list[Rank], width: int, now: float) -> None:
        """Keep idle ranks for the first in line; until when follows from what the others run."""
        self.reserved = frozenset(rank.number for rank in free)
        ends = sorted(
            rank.flights[0].since + sum(flight.seconds for flight in rank.flights)
            for rank in self._ranks.values() if rank.flights
        )  # fmt: skip
        missing = width - len(free)
        self.reserved_until = ends[missing - 1] if missing <= len(ends) else now

    def window_s(self, now: float) -> float:
        """How long a task may take that runs on a reserved rank."""
        return _BACKFILL * (self.reserved_until - now)

    def _sweep(self) -> None:
        """What has ended, or died with its rank, gives back what it had."""
        ended = [p for p in self._placements if p.flight not in p.rank.flights]
        for placement in ended:
            self._placements.remove(placement)
            self._ranks.take_back(placement.lent)
            for which, part in placement.gpus:
                self._gpu_left[which] += part


def _neighbours(free: list[Rank], width: int) -> list[Rank]:
    """So many ranks whose cores lie as close together as possible."""
    if width == 1:
        return free[:1]
    line = sorted(free, key=lambda rank: (rank.core, rank.number))
    spans = [(line[at + width - 1].core - line[at].core, at) for at in range(len(line) - width + 1)]
    at = min(spans)[1]
    return line[at : at + width]
