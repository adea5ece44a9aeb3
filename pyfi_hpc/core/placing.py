"""Placing: which ranks and GPUs of a node a task with needs gets.

Such a task runs on one rank, or on several of one MPI world, and borrows the cores of others: they are lent to it and
get nothing else until it has ended. The first in line gathers ranks as they fall idle; meanwhile these run what is
thought to end before the last of them is there. The broker counts what fits (core/fits.py), so what is in line here
gets its ranks. A gang of several nodes waits with its ranks until the broker says Go (core/gangs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyfi_hpc.core.durations import Durations
from pyfi_hpc.core.held import HeldGrant, Holdings, Parts, Piece
from pyfi_hpc.core.ranks import Flight, Rank, RankTable
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, EndStep
from pyfi_hpc.model.ids import BROKER
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.states import Cause
from pyfi_hpc.model.terms import Terms, decode

#: what numeric libraries read when they start
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: what plain tasks find in their environment: none, also where the driver shows what was not given to us
PLAIN_VARIABLES = [(_VISIBLE, "")]


@dataclass(slots=True)
class Seat:
    """What one rank of a task has."""

    rank: Rank
    #: numbers of the ranks whose cores it uses, its own first
    lent: list[int]
    gpus: list[tuple[int, int]] = field(default_factory=list)  #: (which, thousandths)
    flight: Flight | None = None  #: None: it waits for other nodes

    def over(self) -> bool:
        return self.flight is not None and self.flight not in self.rank.flights


@dataclass(slots=True, eq=False)
class Placement:
    """What one task has on this node while it runs, or waits for other nodes."""

    grant: HeldGrant
    piece: Piece
    terms: Terms
    seats: list[Seat]
    #: when the others are ended of whom one has ended badly; 0: nobody has
    kill_at: float = 0.0
    #: of a step that runs on another node: its ranks here are lent until the broker wants them back
    helps: bool = False

    @property
    def waits(self) -> bool:
        return self.seats[0].flight is None and not self.helps

    @property
    def over(self) -> bool:
        """Whether all have ended; of a step, which runs nothing on its ranks, the one that runs its function."""
        seats = self.seats[:1] if self.terms.step else self.seats
        return all(seat.over() for seat in seats)


#: gives a task to a rank, with these variables and cores, who else runs it, and where the programs of its step run
Send = Callable[[Rank, Piece, list[tuple[str, str]], list[int], list[int], list[m.Seats]], Flight]


class Placer:
    """Places tasks with needs on one node.

    Parameters
    ----------
    limits : Limits
    holdings : Holdings
    ranks : RankTable
    inventory : Inventory
    durations : Durations
        Of functions here, by code and name.
    """

    def __init__(
        self, limits: Limits, holdings: Holdings, ranks: RankTable, inventory: Inventory, durations: Durations
    ) -> None:
        self._limits, self._holdings, self._ranks, self._durations = limits, holdings, ranks, durations
        self._gpus = inventory.gpus
        self._gpu_left = [1000] * len(inventory.gpus)
        #: GPUs of a rank's last gang, of which its MPI process may still have hold
        self._had: dict[int, list[int]] = {}
        self._placements: list[Placement] = []
        #: who runs a gang, by grant, of those that may start
        self.roster: dict[int, m.Go] = {}
        #: idle ranks that wait for others, for which task, and until when they are thought to, monotonic seconds
        self.reserved: frozenset[int] = frozenset()
        self._gathers: tuple[HeldGrant, int] | None = None
        self._gathered_at = 0.0
        #: its other nodes are not ready before; 0: not known
        self._not_before = 0.0
        self._said_free = False
        #: steps that have ended, and of which no process is to be left
        self.ended: list[str] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._placements or self._holdings.special or self.reserved)

    def tasks(self) -> int:
        """Tasks with needs that are here."""
        return len(self._placements) + sum(piece.hi - piece.lo for piece in self._holdings.special)

    def taken(self) -> int:
        """Ranks that are lent."""
        return len(self._ranks.lent)

    def wake_at(self) -> float:
        kill_at = min((p.kill_at for p in self._placements if p.kill_at), default=float("inf"))
        return min(kill_at, self._not_before) if self._not_before and self.busy else kill_at

    @property
    def gathered_at(self) -> float:
        """When all ranks are thought to be there: a task that runs on a reserved one is to end before."""
        return self._gathered_at

    def busy_s(self, rank: Rank, now: float) -> float:
        """How long what a rank has takes at most, as far as is known."""
        seconds = 0.0
        for at, flight in enumerate(rank.flights):
            function = flight.grant.item.code, flight.grant.item.function
            age_s = now - flight.since if at == 0 else 0.0
            if flight.hi - flight.lo == 1:
                seconds += self._durations.rest(function, age_s)
            else:
                seconds += max(flight.seconds - age_s, self._durations.rest(function, 0.0))
        return seconds

    # --- starting -------------------------------------------------------------------------------------

    def fill(self, usable: list[Rank], ready: Callable[[int], bool], send: Send, now: float, out: Effects) -> None:
        """Start what can start. ``usable``: ranks that may get tasks, ``ready``: whether some code can run here."""
        self._go(send)
        self.reserved = frozenset()
        line = self._holdings.special
        for _ in range(len(line)):
            piece = line[0]
            item = piece.grant.item
            terms = decode(item.terms)
            width = len(usable) if terms.exclusive else terms.cores
            leaders, needed = self._wanted(item, usable, width)
            if not ready(item.code) and needed <= len(usable):
                line.rotate(-1)
                continue
            while piece.lo < piece.hi:
                if leaders > sum(self._may_lead(item, rank) for rank in usable) or not 0 < needed <= len(usable):
                    line.popleft()  # ranks have gone since it was granted
                    self._holdings.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)
                    break
                seats = self._seats(piece, terms, usable, leaders, width, now, out)
                if seats is None:
                    return
                self._gathers, self._not_before = None, 0.0
                one = Piece(piece.grant, piece.lo, piece.lo + 1)
                piece.lo += 1
                if piece.lo == piece.hi:
                    line.popleft()
                self._place(Placement(piece.grant, one, terms, seats), send, out)

    @staticmethod
    def _wanted(item: m.Item, usable: list[Rank], width: int) -> tuple[int, int]:
        """Ranks that run the task here, and those that it takes in all."""
        leaders = item.gang.here if item.gang is not None else 1
        return leaders, leaders * width

    @staticmethod
    def _may_lead(item: m.Item, rank: Rank) -> bool:
        return item.gang is None or item.gang.world in ("", rank.world_id)

    def _seats(
        self, piece: Piece, terms: Terms, usable: list[Rank], leaders: int, width: int, now: float, out: Effects
    ) -> list[Seat] | None:
        """Ranks and GPUs for one task; None: not yet, its ranks are kept as they fall idle."""
        idle, item = self._ranks.idle, piece.grant.item
        free = [rank for rank in usable if rank.number in idle]
        heads = [rank for rank in free if self._may_lead(item, rank)][:leaders]
        early = now < self._not_before and self._gathers == (piece.grant, piece.lo)
        lacks_none = len(heads) >= leaders and len(free) >= leaders * width
        if early and lacks_none and not self._said_free:
            self._said_free = True  # sooner than it was thought: perhaps the last to wait for
            out.send(BROKER, m.Gathered(item.grant, [], 0.0))
        if not lacks_none or early:
            lacks = max(leaders - len(heads), leaders * width - len(free))
            kept = [*heads, *(rank for rank in free if rank not in heads)][: leaders * width]
            begins = self._reserve(kept, (piece.grant, piece.lo), lacks, now)
            if begins and item.gang is not None and item.gang.here < item.gang.total:
                out.send(BROKER, m.Gathered(item.grant, [], max(0.0, self._gathered_at - now)))
            return None
        seats: list[Seat] = []
        if item.gang is None and width > 1:
            heads = _neighbours(free, width)[:1]
        others = [rank for rank in sorted(free, key=lambda rank: rank.core) if rank not in heads]
        for head in heads:
            lent = sorted(others, key=lambda rank: abs(rank.core - head.core))[: width - 1]
            others = [rank for rank in others if rank not in lent]
            seats.append(Seat(head, [rank.number for rank in (head, *lent)]))
        gpus = self._pick_gpus(terms.gpu_thousandths, heads)
        if gpus is None:
            return None  # a part of one is in the way, and ends
        for seat, own in zip(seats, gpus, strict=True):
            seat.gpus = own
        return seats

    def _place(self, placement: Placement, send: Send, out: Effects) -> None:
        """Its ranks are its own from now on; it starts, if nobody else has to be there."""
        self._placements.append(placement)
        for seat in placement.seats:
            for which, part in seat.gpus:
                self._gpu_left[which] -= part
            self._ranks.lend(seat.lent)
        gang = placement.grant.item.gang
        if gang is not None:
            self._had.update((seat.rank.number, [which for which, _ in seat.gpus]) for seat in placement.seats)
        numbers = [seat.rank.number for seat in placement.seats]
        if gang is not None and gang.here < gang.total:
            self._say_gathered(placement, out)
        else:
            self._start(placement, numbers if gang is not None else [], [self._seats_of(placement)], send)

    def _go(self, send: Send) -> None:
        """Gangs of which all nodes are there."""
        if self.roster:
            for placement in self._placements:
                go = self.roster.get(placement.grant.item.grant)
                if go is None or not placement.waits:
                    continue
                if placement.terms.step and not go.seats:
                    placement.helps = True
                else:
                    self._start(placement, go.roster, go.seats, send)
            self.roster.clear()

    def _start(self, placement: Placement, roster: list[int], step: list[m.Seats], send: Send) -> None:
        seats = placement.seats
        if not placement.terms.step:
            step = []
        elif roster:
            roster, seats = [], seats[:1]
        if roster:
            placement.grant.parts = Parts(len(placement.seats), roster[0])
        for seat in seats:
            own = self._cores(seat) if len(seat.lent) > 1 else []
            variables = self._variables(placement.terms, seat)
            seat.flight = send(seat.rank, placement.piece, variables, own, roster, step)
            self._ranks.touched(seat.rank)

    def _cores(self, seat: Seat) -> list[int]:
        """Those that it has; none where ranks are not bound to any."""
        cores = sorted(self._ranks[number].core for number in seat.lent if number in self._ranks)
        return cores if len(cores) == len(seat.lent) and cores[0] >= 0 else []

    def _seats_of(self, placement: Placement) -> m.Seats:
        """For a step, where its programs run here."""
        seats = placement.seats
        gpus = [",".join(self._gpus[which] for which, _ in seat.gpus) for seat in seats] if self._gpus else []
        return m.Seats([self._cores(seat) for seat in seats], gpus)

    def _variables(self, terms: Terms, seat: Seat) -> list[tuple[str, str]]:
        found = [(_VISIBLE, ",".join(self._gpus[which] for which, _ in seat.gpus))]
        threads = terms.threads or len(seat.lent)
        return found + [(name, str(threads)) for name in _THREADS] if threads > 1 else found

    def _pick_gpus(self, wanted: int, heads: list[Rank]) -> list[list[tuple[int, int]]] | None:
        """GPUs for each rank: whole ones, or one that still has the part; None: not now."""
        left, picked = list(self._gpu_left), []
        for head in heads:
            own = _choose(left, wanted, self._had.get(head.number, [])) if wanted else []
            if own is None:
                return None
            for which, part in own:
                left[which] -= part
            picked.append(own)
        return picked

    def _reserve(self, free: list[Rank], task: tuple[HeldGrant, int], lacks: int, now: float) -> bool:
        """Keep idle ranks for the first in line; whether this begins now.

        Until when follows from what the others run as it begins: what is put in front later may not move that.
        """
        self.reserved = frozenset(rank.number for rank in free)
        if self._gathers == task:
            return False
        self._gathers, self._not_before, self._said_free = task, 0.0, False
        ends = sorted(self.busy_s(rank, now) for rank in self._ranks.values() if rank.flights)
        self._gathered_at = now + (ends[lacks - 1] if 0 < lacks <= len(ends) else 0.0)
        return True

    def go(self, message: m.Go, now: float) -> None:
        """A gang of several nodes may start, or the broker tells when the last of them is thought to be ready."""
        if message.roster:
            self.roster[message.grant] = message
        elif self._gathers is not None and self._gathers[0].item.grant == message.grant:
            self._gathered_at = self._not_before = now + message.in_s

    @property
    def gathers(self) -> tuple[HeldGrant, int] | None:
        """The task that is waiting for ranks, as its grant and offset."""
        return self._gathers if self.reserved or self._holdings.special else None

    # --- ending ---------------------------------------------------------------------------------------

    def drop(self, grant: HeldGrant | None, cause: Cause, running: bool = True) -> None:
        """What waits with its ranks for other nodes does not start any more; None: all of it.

        With ``running`` also what is lent to a step that runs on another node.
        """
        for placement in [p for p in self._placements if p.waits or (p.helps and running)]:
            if grant is None or placement.grant is grant:
                self._free(placement)
                self._holdings.make(placement.grant, placement.piece.lo, placement.piece.hi, cause)

    def helping(self) -> list[tuple[int, int]]:
        """(grant, offset in batch) of steps that run on another node."""
        return [(p.grant.item.grant, p.piece.lo) for p in self._placements if p.helps]

    def tell(self, out: Effects) -> None:
        """What waits for other nodes says so with each beat: that, or the answer, may have been lost."""
        for placement in self._placements:
            if placement.waits or placement.helps:
                self._say_gathered(placement, out)

    def _say_gathered(self, placement: Placement, out: Effects) -> None:
        numbers = [seat.rank.number for seat in placement.seats]
        seats = self._seats_of(placement) if placement.terms.step else None
        out.send(BROKER, m.Gathered(placement.grant.item.grant, numbers, seats=seats))

    def end_steps(self, out: Effects, every: bool = False) -> None:
        """See that no process is left of steps that have ended; of all steps, when this agent does."""
        if every:
            self.ended += [token(placement) for placement in self._placements if placement.terms.step]
        if self.ended:
            out.actions += map(EndStep, self.ended)
            self.ended.clear()

    def watch(self, now: float, out: Effects) -> None:
        """What has ended, or died with its rank, gives back what it had; where one of several ended badly, all end."""
        if now >= self._not_before:
            self._not_before = 0.0
        for placement in list(self._placements):
            if placement.waits:
                if any(self._ranks.get(seat.rank.number) is not seat.rank for seat in placement.seats):
                    self._free(placement)
                    self._holdings.make(placement.grant, placement.piece.lo, placement.piece.hi, Cause.RELEASED)
            elif placement.over:
                self._free(placement)
            elif placement.grant.parts is not None and placement.grant.parts.failure is not None:
                self._end_mates(placement, now, out)

    def _end_mates(self, placement: Placement, now: float, out: Effects) -> None:
        if not placement.kill_at:
            placement.kill_at = now + self._limits.mates_s
        elif now >= placement.kill_at:
            placement.kill_at = float("inf")
            for seat in placement.seats:
                if seat.flight is not None and not seat.over():
                    out.send(seat.rank.peer, m.Kill(seat.flight.bundle, seat.flight.lo, 1, Cause.PREEMPTED))

    def _free(self, placement: Placement) -> None:
        self._placements.remove(placement)
        if placement.terms.step and not placement.waits:
            self.ended.append(token(placement))
        for seat in placement.seats:
            self._ranks.take_back(seat.lent)
            for which, part in seat.gpus:
                self._gpu_left[which] += part


def token(placement: Placement) -> str:
    """By it all processes of a step are known, on all of its nodes: see runner/bound.py.

    Not by the attempt, which has the same number again where nothing was charged.
    """
    item = placement.grant.item
    return str(item.gang and item.gang.leader or item.grant)


def _choose(left: list[int], wanted: int, had: list[int]) -> list[tuple[int, int]] | None:
    """Of what is left of GPUs: those that it had, or where a part is wanted the fullest one."""
    if wanted < 1000:
        fits = [which for which, rest in enumerate(left) if rest >= wanted]
        return [(min(fits, key=lambda which: (which not in had, left[which])), wanted)] if fits else None
    free = sorted((which for which, rest in enumerate(left) if rest == 1000), key=lambda which: which not in had)
    each = wanted // 1000
    return [(which, 1000) for which in sorted(free[:each])] if len(free) >= each else None


def _neighbours(free: list[Rank], width: int) -> list[Rank]:
    """So many ranks whose cores lie as close together as possible."""
    line = sorted(free, key=lambda rank: (rank.core, rank.number))
    spans = [(line[at + width - 1].core - line[at].core, at) for at in range(len(line) - width + 1)]
    at = min(spans)[1]
    return line[at : at + width]
