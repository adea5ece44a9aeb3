"""Bundles: which rank gets which of the node's tasks, and when they are asked back.

Sized to a few milliseconds of work from the measured duration of each function, so that a rank never waits for
the network and a long task never holds short ones behind it.
"""

from __future__ import annotations

from array import array

import msgspec

from pyfi_hpc.core.durations import Durations
from pyfi_hpc.core.held import HeldGrant, Holdings, Piece, payload_of
from pyfi_hpc.core.muster import Muster
from pyfi_hpc.core.placing import Placer
from pyfi_hpc.core.ranks import Flight, Rank
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import CheckCode, Effects
from pyfi_hpc.model.events import CodeChecked
from pyfi_hpc.model.inventory import NOTHING, Inventory
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import failure
from pyfi_hpc.model.states import Cause

#: between two looks for tasks that wait behind a long one, seconds
_EVEN_OUT_S = 0.02
#: while ranks are gathered a node holds so many times as many tasks
_GATHERING = 4


class Bundler:
    """Fills the ranks of one node from what it holds.

    Parameters
    ----------
    limits : Limits
    holdings : Holdings
    muster : Muster
        Which ranks are here, and which of them rest.
    inventory : Inventory
        What this node has besides ranks.
    ends_at : float
        See Agent.
    """

    def __init__(
        self, limits: Limits, holdings: Holdings, muster: Muster, inventory: Inventory = NOTHING,
        ends_at: float = float("inf"),
    ) -> None:  # fmt: skip
        self._muster = muster
        self._ends_at = ends_at
        #: half of the margin that the broker keeps, so that what goes back is not granted here again
        self._late_at = ends_at - limits.end_margin_s / 2
        self._limits = limits
        self._holdings = holdings
        self._ranks = muster.ranks
        self._durations = Durations()
        self._placer = Placer(limits, holdings, muster.ranks, inventory, self._durations)
        #: code id -> mount; "" once it was seen to be there, else the problem; absent: being checked
        self._mounts: dict[int, m.Mount] = {}
        self._checked: dict[int, str] = {}
        self._bundles = 0
        #: tasks that the broker asked back and has not got
        self._recalled = 0
        self._even_at = 0.0

    def wake_at(self) -> float:
        return self._even_at if self._even_at > 0.0 and self._uneven() else float("inf")

    def gangs_at(self) -> float:
        """When ranks are to be ended because one of their gang ended badly, or are to wait for others."""
        return self._placer.wake_at()

    def worlds(self) -> tuple[tuple[str, int], ...]:
        """MPI worlds of the ranks that may get tasks, and how many of each."""
        counts: dict[str, int] = {}
        for rank in self.usable():
            if rank.world_id:
                counts[rank.world_id] = counts.get(rank.world_id, 0) + 1
        return tuple(counts.items())

    # --- code -----------------------------------------------------------------------------------------

    def mount(self, message: m.Mount, out: Effects) -> None:
        if message.code not in self._mounts:
            self._mounts[message.code] = message
            self._check(message, out)

    def want(self, code: int, out: Effects) -> None:
        """A grant needs this code: if it was not there, it may be now."""
        if self._checked.get(code):
            del self._checked[code]
            self._check(self._mounts[code], out)

    def _check(self, mount: m.Mount, out: Effects) -> None:
        check = CheckCode(
            mount.code, mount.repository, mount.commit, mount.module, mount.environment, mount.python, mount.workdir
        )
        out.actions.append(check)

    def code_checked(self, event: CodeChecked) -> None:
        self._checked[event.code] = event.problem
        if event.python:
            mount = self._mounts[event.code]
            self._mounts[event.code] = msgspec.structs.replace(mount, python=event.python, workdir=event.workdir)
        if not event.problem:
            return
        for grant in [g for g in self._holdings.grants.values() if g.item.code == event.code]:
            item = grant.item
            for lo, hi in self._holdings.drop_waiting(grant, item.lo, item.lo + item.count):
                self._holdings.make(grant, lo, hi, Cause.ENVIRONMENT, failure("EnvironmentFailed", event.problem))

    # --- giving ---------------------------------------------------------------------------------------

    def usable(self) -> list[Rank]:
        """Ranks that may get tasks."""
        resting = self._muster.resting
        return [r for n, r in self._ranks.items() if n not in resting] if resting else list(self._ranks.values())

    def fill(self, now: float, out: Effects) -> None:
        """Send bundles to ranks that have room: idle ones first."""
        holdings, placer = self._holdings, self._placer
        if placer.busy:
            self._place(now, out)
        if not holdings.waiting:
            self._even_out(now, out)
            return
        self._even_at = now + _EVEN_OUT_S
        resting, usable = self._muster.resting, len(self.usable())
        for ranks in (self._ranks.idle, self._ranks.roomy):
            for rank in list(ranks.values()):
                if rank.number in resting:
                    continue
                if rank.number in placer.reserved or (rank.flights and placer.gathers is not None):
                    self._backfill(rank, now, out)
                    continue
                piece, other = self._next_bundle(rank, usable, now) if holdings.waiting else (None, False)
                if piece is not None:
                    self._send_bundle(rank, piece, now, out)
                elif not other:
                    return

    def _place(self, now: float, out: Effects) -> None:
        """Tasks with needs go first: their ranks have to be free at one time."""

        def send(
            rank: Rank, piece: Piece, variables: list[tuple[str, str]], cores: list[int], roster: list[int],
            seats: list[m.Seats],
        ) -> Flight:  # fmt: skip
            return self._send_bundle(rank, piece, now, out, variables, cores, roster, seats)

        gathers = self._placer.gathers
        self._placer.fill(self.usable(), lambda code: self._checked.get(code) == "", send, now, out)
        if self._placer.gathers not in (None, gathers):
            self.reclaim(1 << 30, out)  # what waits at ranks behind what runs would make it wait twice

    def watch(self, now: float, out: Effects) -> None:
        """Look after tasks that several ranks run, also while nothing starts."""
        if self._placer.busy:
            self._placer.watch(now, out)
        self._placer.end_steps(out)

    def leave(self, out: Effects) -> None:
        """This agent ends, and what was started for it."""
        self._placer.end_steps(out, every=True)

    def go(self, message: m.Go, now: float, out: Effects) -> None:
        """All ranks of a gang wait, on whatever nodes, or will at some time."""
        self._placer.go(message, now)
        self._place(now, out)

    def _backfill(self, rank: Rank, now: float, out: Effects) -> None:
        """A rank that waits for others, or will, runs what is known to end before they come."""
        window_s = self._placer.gathered_at - now - self._placer.busy_s(rank, now)
        for _ in range(len(self._holdings.waiting) if window_s > 0 else 0):
            item = self._holdings.waiting[0].grant.item
            function = item.code, item.function
            mean, most = self._durations.of(function), self._durations.most(function)
            fits = mean is not None and most is not None and most <= window_s
            if fits and item.attempt == 1 and self._checked.get(item.code) == "":
                count = min(self._limits.bundle_s, window_s - most) / max(mean, 1e-6)  # type: ignore[operator,type-var]
                piece = self._holdings.next_piece(max(1, min(int(count), self._limits.bundle_tasks_max)))
                assert piece is not None
                self._send_bundle(rank, piece, now, out)
                return
            self._holdings.waiting.rotate(-1)

    def short_until(self) -> float:
        """By when plain tasks are to end that come now, while ranks wait for others; 0: whenever they like."""
        return self._placer.gathered_at if self._placer.gathers is not None else 0.0

    def _even_out(self, now: float, out: Effects) -> None:
        """A rank idles while tasks wait behind a long one: they are asked back and go to it."""
        if now < self._even_at:
            return
        if self._uneven():
            self._even_at = now + _EVEN_OUT_S
            self.reclaim(len(self._idle()), out)

    def _idle(self) -> list[Rank]:
        return [rank for rank in self._ranks.idle.values() if rank.number not in self._muster.resting]

    def _uneven(self) -> bool:
        if not self._ranks.idle or not self._idle():
            return False
        lined = self._ranks.lined.values()
        return any(rank.askable() and rank.number not in self._muster.resting for rank in lined)

    def _next_bundle(self, rank: Rank, ranks: int, now: float) -> tuple[Piece | None, bool]:
        """The first tasks whose code is ready, as many as a rank runs in a few milliseconds.

        Where there are none: whether another rank may take some. A task that died on this rank waits for another.
        """
        holdings, other = self._holdings, False
        for _ in range(len(holdings.waiting)):
            item = holdings.waiting[0].grant.item
            if now + item.needs_s > self._late_at:
                self._release_late()
                if not holdings.waiting:
                    break
                continue
            if self._checked.get(item.code) == "" and item.attempt > 1 and ranks > 1 and self._died_on(rank, item, now):
                other = True
            elif self._checked.get(item.code) == "":
                mean = self._durations.of((item.code, item.function))
                share = -(-holdings.waiting_count // ranks)
                count = 1 if mean is None else int(self._limits.bundle_s / max(mean, 1e-6))
                return holdings.next_piece(max(1, min(count, share, self._limits.bundle_tasks_max))), False
            holdings.waiting.rotate(-1)
        return None, other

    def _release_late(self) -> None:
        """The first in line cannot end in time here, since what was before it took so long."""
        piece = self._holdings.next_piece(1 << 30)
        assert piece is not None
        self._holdings.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)

    def _died_on(self, rank: Rank, item: m.Item, now: float) -> bool:
        """Whether the task, which is alone when it is tried again, died on this rank lately."""
        number, at = self._holdings.died.get((item.batch, item.lo), (-1, 0.0))
        return number == rank.number and now < at + self._limits.elsewhere_s

    def _send_bundle(
        self, rank: Rank, piece: Piece, now: float, out: Effects, variables: list[tuple[str, str]] | None = None,
        cores: list[int] | None = None, roster: list[int] | None = None, seats: list[m.Seats] | None = None,
    ) -> Flight:  # fmt: skip
        item = piece.grant.item
        mount = self._mounts[item.code]
        self._bundles += 1
        count = piece.hi - piece.lo
        mean = self._durations.of((item.code, item.function))
        seconds = 1.0 if mean is None else mean * count
        flight = Flight(self._bundles, piece.grant, piece.lo, piece.lo, piece.hi, seconds, now)
        rank.flights.append(flight)
        self._ranks.touched(rank)
        offsets, payload, inputs = payload_of(piece)
        bundle = m.Bundle(
            self._bundles, item.grant, item.batch, item.job, item.first + piece.lo - item.lo, piece.lo, count,
            item.attempt, mount.python, mount.workdir, mount.module, item.function, item.time_limit_s, offsets,
            payload, inputs, self._placer.plain_variables if variables is None else variables, cores or [],
            roster or [], ends_at=self._ends_at if self._ends_at < float("inf") else 0.0, state=item.state,
            seats=seats or [],
        )  # fmt: skip
        out.send(rank.peer, bundle)
        return flight

    def capacity(self) -> int:
        """How many tasks this node wants to hold: what its ranks run, and a buffer of 50 ms of work."""
        mean = self._durations.overall
        each = 2 if mean is None else 1 + int(self._limits.buffer_s / max(mean, 1e-6))
        if mean is not None and mean > self._limits.buffer_s:
            each = 1 + (mean < 1.0)
        each = min(each, self._limits.capacity_per_rank_max)
        if not self._placer.busy:
            return len(self.usable()) * each
        if self._placer.gathers is not None:
            each *= _GATHERING  # of what waits, little may be short enough to be put in front
        return max(0, len(self.usable()) - self._placer.taken()) * each + self._placer.tasks()

    # --- taking back ----------------------------------------------------------------------------------

    def done(self, rank: Rank, message: m.Done, now: float) -> bool:
        """Outcomes of a bundle come in order, so what is done is a prefix; only its end can be handed back.

        Returns False for an outcome that cannot be: the rank is not to be trusted.
        """
        outcome = message.outcome
        flight = next((f for f in rank.flights if f.bundle == message.bundle), None)
        grant = flight.grant if flight is not None else self._holdings.grants.get(outcome.grant)
        if grant is None:
            return True
        item = grant.item
        if not _fits(item, outcome):
            return False
        if flight is None and not self._holdings.owes(outcome):
            return True
        if outcome.causes.count(Cause.RELEASED) == outcome.count and item.gang is None:
            self._handed_back(rank, grant, flight, outcome)
            return True
        if flight is not None:  # else a task was cancelled between others that were handed back: they were its end
            flight.next = outcome.lo + outcome.count
            if flight.next >= flight.hi:
                rank.flights.remove(flight)
                if rank.flights:
                    rank.flights[0].since = now
            self._ranks.touched(rank)
        if outcome.count and outcome.causes.count(0) == outcome.count:
            took = array("f", outcome.durations)
            self._durations.report((item.code, item.function), sum(took) / outcome.count, took)
            self._muster.well(rank.number)
        else:
            self._holdings.note_deaths(rank.number, outcome, now)
        self._holdings.ended(outcome)
        return True

    def _handed_back(self, rank: Rank, grant: HeldGrant, flight: Flight | None, outcome: m.Outcome) -> None:
        """The end of a bundle comes back unstarted: another rank runs it, or the broker asked for it."""
        if flight is not None:
            flight.hi = min(flight.hi, outcome.lo)
            if flight.next >= flight.hi:
                rank.flights.remove(flight)
            self._ranks.touched(rank)
        if grant.unwanted:
            self._holdings.make(grant, outcome.lo, outcome.lo + outcome.count, Cause.RELEASED)
            return
        self._holdings.wait(grant, outcome.lo, outcome.lo + outcome.count, first=True)
        self._hand_back()

    def recall(self, count: int, out: Effects) -> None:
        """Hand back from the end of the line, and what ranks have not started."""
        self._recalled = count
        self._hand_back()
        if self._recalled:
            self.reclaim(self._recalled, out)

    def _hand_back(self) -> None:
        while self._recalled > 0 and (piece := self._holdings.last_piece(self._recalled)) is not None:
            self._recalled -= piece.hi - piece.lo
            self._holdings.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)

    def reclaim(self, count: int, out: Effects) -> int:
        """Ask ranks for tasks that wait behind another, from the longest line first; how many were asked for."""
        asked = 0
        for rank in sorted(self._ranks.values(), key=Rank.line, reverse=True):
            for position, flight in reversed(list(enumerate(rank.flights))):
                start = flight.next + (position == 0)
                lo = max(start, flight.hi - (count - asked))
                if lo < flight.hi and not flight.reclaimed:
                    flight.reclaimed = True
                    asked += flight.hi - lo
                    out.send(rank.peer, m.Kill(flight.bundle, lo, flight.hi - lo, Cause.RELEASED))
                if asked >= count:
                    return asked
        return asked

    def reclaim_from(self, number: int, out: Effects) -> None:
        """Ask a rank that rests for all that it has not started."""
        rank = self._ranks.get(number)
        for position, flight in enumerate(rank.flights if rank else ()):
            lo = flight.next + (position == 0)
            if lo < flight.hi:
                flight.reclaimed = True
                out.send(rank.peer, m.Kill(flight.bundle, lo, flight.hi - lo, Cause.RELEASED))  # type: ignore[union-attr]

    def reclaim_all(self, out: Effects) -> None:
        """Ask back everything that has not started."""
        self._placer.drop(None, Cause.RELEASED, running=False)
        for rank in self._ranks.values():
            for flight in rank.flights:
                flight.reclaimed = False  # a part of it was; now all of it is wanted
        self.reclaim(1 << 30, out)

    def kill(self, grant: HeldGrant, lo: int, hi: int, cause: Cause, out: Effects) -> None:
        """End tasks that ranks have, or that have ranks and wait for others."""
        self._placer.drop(grant, cause)
        for rank in self._ranks.values():
            for flight in rank.flights:
                start, end = max(lo, flight.next), min(hi, flight.hi)
                if flight.grant is grant and start < end:
                    out.send(rank.peer, m.Kill(flight.bundle, start, end - start, cause))

    def preempt(self, grant: HeldGrant, lo: int, hi: int, running: bool, out: Effects) -> None:
        """Ask ranks for tasks that they have not started, and if ``running`` end the one that runs."""
        if running:
            self._placer.drop(grant, Cause.PREEMPTED)
        for rank in self._ranks.values():
            for position, flight in enumerate(rank.flights):
                start, end = max(lo, flight.next), min(hi, flight.hi)
                if flight.grant is not grant or start >= end:
                    continue
                if position == 0 and start == flight.next:
                    if running:
                        out.send(rank.peer, m.Kill(flight.bundle, start, 1, Cause.PREEMPTED))
                    start += 1
                if start < end:
                    flight.reclaimed = True
                    out.send(rank.peer, m.Kill(flight.bundle, start, end - start, Cause.RELEASED))

    def kill_all(self, cause: Cause, out: Effects) -> None:
        self._placer.drop(None, cause)
        for rank in self._ranks.values():
            for flight in rank.flights:
                out.send(rank.peer, m.Kill(flight.bundle, flight.next, flight.hi - flight.next, cause))

    def tell(self, out: Effects) -> None:
        self._placer.tell(out)

    def running(self) -> list[tuple[int, int]]:
        """(grant, offset in batch) of what runs: only that has made an attempt when this node is lost."""
        ours = [(r.flights[0].grant.item.grant, r.flights[0].next) for r in self._ranks.values() if r.flights]
        return ours + self._placer.helping()


def _fits(item: m.Item, o: m.Outcome) -> bool:
    """Whether an outcome lies in its grant, and its parts have the right lengths."""
    return (
        (o.grant, o.batch) == (item.grant, item.batch)
        and 0 < o.count
        and item.lo <= o.lo
        and o.lo + o.count <= item.lo + item.count
        and (len(o.causes), len(o.started), len(o.durations)) == (o.count, 8 * o.count, 4 * o.count)
        and len(o.offsets) == 4 * o.count + 4
    )
