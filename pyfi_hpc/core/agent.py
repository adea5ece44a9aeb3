"""The agent's machine: fills the ranks of one node, holds its lease, keeps outcomes until they are kept.

Bundles are sized to a few milliseconds of work from the measured duration of each function, so that a rank
never waits for the network and a long task never holds short ones behind it. An agent that has heard
nothing for 0.8 of its lease ends what runs: the broker is about to give it to somebody else.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from pyfi_hpc.core.held import HeldGrant, Holdings, Piece, payload_of
from pyfi_hpc.core.ranks import Durations, Flight, Rank
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import CheckCode, Effects, KillProcess, ReplaceRank, Sample, StartRanks, WatchProcess
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Received, Sampled, Signalled, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import failure
from pyfi_hpc.model.states import Cause

BROKER = Peer(b"broker")

#: a rank that says nothing for so long is ended and replaced, seconds
_RANK_SILENCE_S = 10.0
#: from the loss of a rank to its replacement: others of its step may be dying too, seconds
_REPLACE_AFTER_S = 0.3
#: a rank step that was started must be there after so long, seconds
_STEP_START_S = 60.0
#: from a rank step that ended at once to the next try, seconds
_STEP_AGAIN_S = 2.0
#: the batch script starts a broken step anew within so long, seconds
_STEP_OF_SCRIPT_S = 10.0
#: between two hellos while no broker answers, seconds
_HELLO_S = 0.25
#: between two looks for tasks that wait behind a long one, seconds
_EVEN_OUT_S = 0.02
#: outcomes that were not kept for so long are offered again, seconds
_OFFER_AGAIN_S = 5.0
#: ranks have so long to end when the agent stops, seconds
_STOP_S = 3.0


class Agent:
    """The machine of one agent.

    Parameters
    ----------
    limits : Limits
    name : str
        The node's name.
    incarnation : str
        Random for this process.
    allocation : str
        The Slurm job id, or empty.
    rank_count : int
        Ranks that should be here.
    cores : int
    own_step : bool
        Whether this agent starts the rank step; under Slurm the batch script does.
    now : float
    """

    def __init__(
        self, limits: Limits, name: str, incarnation: str, allocation: str, rank_count: int, cores: int,
        own_step: bool, now: float,
    ) -> None:  # fmt: skip
        self.stopped = False
        self._limits = limits
        self._name, self._incarnation, self._allocation = name, incarnation, allocation
        self._rank_count, self._cores, self._own_step = rank_count, cores, own_step
        self._holdings = Holdings()
        self._durations = Durations()
        self._ranks: dict[int, Rank] = {}
        self._by_peer: dict[Peer, Rank] = {}
        #: rank numbers that died -> (core, when)
        self._missing: dict[int, tuple[int, float]] = {}
        self._step_until = now + _STEP_START_S if not own_step else 0.0
        #: code id -> mount; "" once it was seen to be there, else the problem; absent: being checked
        self._mounts: dict[int, m.Mount] = {}
        self._checked: dict[int, str] = {}
        self._bundles = 0
        #: tasks that the broker asked back and has not got
        self._recalled = 0
        self._even_at = 0.0
        self._welcome = False
        self._hello_at = now
        self._heard_at = now
        self._beat_at = now
        self._counter = 0
        self._capacity_told = (-1, -1, False)
        self._load, self._memory = 0.0, 0
        self._draining = False
        self._fenced = False
        self._stop_at: float | None = None

    # --- the loop's side ------------------------------------------------------------------------------

    def handle(self, event: Any, now: float, out: Effects) -> None:
        if type(event) is Received:
            if event.peer == BROKER:
                self._heard_at = now
                _FROM_BROKER[type(event.message)](self, event.message, now, out)
            else:
                self._from_rank(event.peer, event.message, now, out)
        else:
            _EVENTS[type(event)](self, event, now, out)

    def advance(self, now: float, out: Effects) -> None:
        self._watch_ranks(now, out)
        if now >= self._beat_at:
            self._beat(now, out)
        if self._draining:
            self._release_waiting()  # what ranks handed back, or died on
        self._fill(now, out)
        if self._holdings.fresh and self._welcome:
            self._finished(self._holdings.offer(now), out)
        if self._stop_at is not None:
            self._stopping(now, out)
        elif self._draining and self._welcome and self._holdings.empty:
            self._leave("walltime", now, out)
        self._tell_capacity(out)

    def wake_at(self) -> float:
        wake = self._beat_at
        if self._own_step and not self._ranks:
            wake = min(wake, self._step_until)
        if self._even_at > 0.0 and self._uneven():
            wake = min(wake, self._even_at)
        if self._missing and self._ranks:
            wake = min(wake, min(at for _, at in self._missing.values()) + _REPLACE_AFTER_S)
        if self._stop_at is not None:
            wake = min(wake, self._stop_at)
        return wake

    # --- the broker -----------------------------------------------------------------------------------

    def _hello(self, now: float, out: Effects) -> None:
        if self._stop_at is not None:
            return
        self._hello_at = now
        hello = m.Hello(
            PROTOCOL_VERSION, "agent", self._name, self._incarnation, len(self._ranks), self._cores, self._allocation,
            self._holdings.tell(),
        )  # fmt: skip
        out.send(BROKER, hello)

    def _welcomed(self, message: m.Welcome, now: float, out: Effects) -> None:
        self._welcome = True
        self._fenced = False
        self._capacity_told = (-1, -1, False)
        again = self._holdings.offer_again(float("inf"), now)
        self._finished(again, out)

    def _finished(self, outcomes: list[m.Outcome], out: Effects) -> None:
        """Tell outcomes in messages of bounded size; a single larger one goes alone."""
        piece: list[m.Outcome] = []
        size = 0
        for outcome in outcomes:
            piece.append(outcome)
            size += len(outcome.payload) + len(outcome.outputs)
            if size >= self._limits.batch_bytes_goal:
                out.send(BROKER, m.Finished(piece))
                piece, size = [], 0
        if piece:
            out.send(BROKER, m.Finished(piece))

    def _unknown(self, message: m.Unknown, now: float, out: Effects) -> None:
        self._welcome = False
        self._hello(now, out)

    def _denied(self, message: m.Denied, now: float, out: Effects) -> None:
        """A name in use is free again when the other's lease has ended; anything else is final."""
        self._welcome = False
        if message.code != "name_in_use":
            self._stop_at = now

    def _mount(self, message: m.Mount, now: float, out: Effects) -> None:
        if message.code not in self._mounts:
            self._mounts[message.code] = message
            self._check(message, out)

    def _check(self, mount: m.Mount, out: Effects) -> None:
        check = CheckCode(
            mount.code, mount.repository, mount.commit, mount.module, mount.environment, mount.python, mount.workdir
        )
        out.actions.append(check)

    def _grant(self, message: m.Grant, now: float, out: Effects) -> None:
        for item in message.items:
            if item.grant in self._holdings.grants:
                continue
            grant = self._holdings.take(item)
            if self._checked.get(item.code):
                del self._checked[item.code]  # it was not there; it may be now
                self._check(self._mounts[item.code], out)
            if self._draining or self._stop_at is not None:
                self._holdings.make(grant, item.lo, item.lo + item.count, Cause.RELEASED)
            else:
                self._holdings.wait(grant, item.lo, item.lo + item.count)

    def _recall(self, message: m.Recall, now: float, out: Effects) -> None:
        """Hand back from the end of the line, and what ranks have not started."""
        self._recalled = message.count
        self._hand_back()
        if self._recalled:
            self._reclaim(self._recalled, out)

    def _hand_back(self) -> None:
        while self._recalled > 0 and (piece := self._holdings.last_piece(self._recalled)) is not None:
            self._recalled -= piece.hi - piece.lo
            self._holdings.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)

    def _reclaim(self, count: int, out: Effects) -> int:
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

    def _cancel(self, message: m.Cancel, now: float, out: Effects) -> None:
        grant = self._holdings.grants.get(message.job)
        if grant is None:
            return
        item = grant.item
        lo = max(message.first, item.lo)
        hi = item.lo + item.count if message.count < 0 else min(message.first + message.count, item.lo + item.count)
        for start, end in self._holdings.drop_waiting(grant, lo, hi):
            self._holdings.make(grant, start, end, Cause.CANCELLED)
        self._kill(grant, lo, hi, Cause.CANCELLED, out)

    def _kill(self, grant: HeldGrant, lo: int, hi: int, cause: Cause, out: Effects) -> None:
        """End tasks that ranks have."""
        for rank in self._ranks.values():
            for flight in rank.flights:
                start, end = max(lo, flight.next), min(hi, flight.hi)
                if flight.grant is grant and start < end:
                    out.send(rank.peer, m.Kill(flight.bundle, start, end - start, cause))

    def _kept(self, message: m.Kept, now: float, out: Effects) -> None:
        self._holdings.kept(message.ranges)

    def _broker_beat(self, message: m.Beat, now: float, out: Effects) -> None:
        pass  # being heard is all: see handle

    def _stop(self, message: m.Stop, now: float, out: Effects) -> None:
        if message.drain:
            self._drain(out)
        else:
            self._leave("stopped", now, out)

    # --- ranks ----------------------------------------------------------------------------------------

    def _from_rank(self, peer: Peer, message: Any, now: float, out: Effects) -> None:
        if type(message) is m.RankReady:
            self._rank_ready(peer, message, now, out)
            return
        rank = self._by_peer.get(peer)
        if rank is None:
            return
        rank.heard_at = now
        if type(message) is m.Done:
            self._done(rank, message, now, out)

    def _rank_ready(self, peer: Peer, message: m.RankReady, now: float, out: Effects) -> None:
        old = self._ranks.get(message.rank)
        if old is not None:
            if old.pid != message.pid:
                out.actions.append(KillProcess(old.pid, True))
            self._rank_lost(old, now, "another rank took its place", Cause.PREEMPTED)
        rank = Rank(message.rank, peer, message.pid, message.core, now, message.world)
        self._ranks[message.rank] = rank
        self._by_peer[peer] = rank
        self._missing.pop(message.rank, None)
        self._step_until = 0.0
        out.actions.append(WatchProcess(message.pid))
        if self._stop_at is not None:
            out.send(peer, m.Stop(False))

    def _done(self, rank: Rank, message: m.Done, now: float, out: Effects) -> None:
        """Outcomes of a bundle come in order, so what is done is a prefix; only its end can be handed back."""
        outcome = message.outcome
        flight = next((f for f in rank.flights if f.bundle == message.bundle), None)
        if flight is None:
            return
        item = flight.grant.item
        if not _fits(item, outcome):
            out.actions.append(KillProcess(rank.pid, True))
            self._rank_lost(rank, now, f"rank {rank.number} reported what cannot be")
            return
        if outcome.causes.count(Cause.RELEASED) == outcome.count:
            self._handed_back(rank, flight, outcome)
            return
        flight.next = outcome.lo + outcome.count
        if flight.next >= flight.hi:
            rank.flights.remove(flight)
        if outcome.count and outcome.causes.count(0) == outcome.count:
            self._durations.report(item.code, item.function, sum(array("f", outcome.durations)) / outcome.count)
        self._holdings.ended(outcome)

    def _handed_back(self, rank: Rank, flight: Flight, outcome: m.Outcome) -> None:
        """The end of a bundle comes back unstarted: another rank runs it, or the broker asked for it."""
        flight.hi = min(flight.hi, outcome.lo)
        if flight.next >= flight.hi:
            rank.flights.remove(flight)
        self._holdings.wait(flight.grant, outcome.lo, outcome.lo + outcome.count, first=True)
        self._hand_back()

    def _process_exited(self, event: ProcessExited, now: float, out: Effects) -> None:
        rank = next((r for r in self._ranks.values() if r.pid == event.pid), None)
        if rank is not None:
            self._rank_lost(rank, now, f"rank {rank.number} died: {event.how}")
        elif self._own_step and not self._ranks and self._stop_at is None:
            self._step_until = now + _STEP_AGAIN_S  # the launcher: nobody came of it

    def _rank_lost(self, rank: Rank, now: float, why: str, cause: Cause = Cause.RANK_LOST) -> None:
        """The task that ran has made an attempt; those behind it never started and go to other ranks."""
        self._ranks.pop(rank.number, None)
        self._by_peer.pop(rank.peer, None)
        self._missing[rank.number] = (rank.core, now)
        for position, flight in reversed(list(enumerate(rank.flights))):
            start = flight.next
            if position == 0 and start < flight.hi:
                self._holdings.make(flight.grant, start, start + 1, cause, failure("TaskLost", why))
                start += 1
            self._holdings.wait(flight.grant, start, flight.hi, first=True)
        rank.flights.clear()

    def _unreachable(self, event: Unreachable, now: float, out: Effects) -> None:
        if event.peer == BROKER:
            self._welcome = False
            return
        rank = self._by_peer.get(event.peer)
        if rank is not None:
            out.actions.append(KillProcess(rank.pid, True))
            self._rank_lost(rank, now, f"rank {rank.number} closed its connection")

    def _watch_ranks(self, now: float, out: Effects) -> None:
        """Replace ranks that died; start the step anew when all of it is gone."""
        if self._stop_at is not None:
            return
        for rank in [r for r in self._ranks.values() if now - r.heard_at > _RANK_SILENCE_S]:
            out.actions.append(KillProcess(rank.pid, True))
            self._rank_lost(rank, now, f"rank {rank.number} said nothing for {_RANK_SILENCE_S:.0f} s")
        if self._own_step and not self._ranks and self._step_until <= now and not self._settling(now):
            self._missing.clear()
            self._step_until = now + _STEP_START_S
            out.actions.append(StartRanks(self._rank_count))
        elif self._missing and self._replaces(now) and not self._settling(now):
            for number, (core, _) in list(self._missing.items()):
                self._missing[number] = (core, now + _STEP_START_S)  # asked for; again if it does not come
                out.actions.append(ReplaceRank(number, core))

    def _replaces(self, now: float) -> bool:
        """Whether ranks are replaced one by one: without survivors the batch script may be starting a new step."""
        if self._ranks:
            return True
        return not self._own_step and now >= max(at for _, at in self._missing.values()) + _STEP_OF_SCRIPT_S

    def _settling(self, now: float) -> bool:
        """Whether a rank died so lately that others of its step may follow."""
        return any(now < at + _REPLACE_AFTER_S for _, at in self._missing.values())

    # --- filling --------------------------------------------------------------------------------------

    def _fill(self, now: float, out: Effects) -> None:
        """Send bundles to ranks that have room: idle ones first."""
        holdings = self._holdings
        if self._fenced or self._draining:
            return
        if not holdings.waiting:
            self._even_out(now, out)
            return
        self._even_at = now + _EVEN_OUT_S
        ranks = sorted(self._ranks.values(), key=lambda rank: len(rank.flights))
        for passes in range(2):
            for rank in ranks:
                if holdings.waiting and len(rank.flights) == passes and rank.room(2 * self._limits.bundle_s):
                    piece = self._next_bundle()
                    if piece is None:
                        return
                    self._send_bundle(rank, piece, out)

    def _even_out(self, now: float, out: Effects) -> None:
        """A rank idles while tasks wait behind a long one: they are asked back and go to it."""
        if now < self._even_at:
            return
        if self._uneven():
            self._even_at = now + _EVEN_OUT_S
            self._reclaim(sum(not rank.flights for rank in self._ranks.values()), out)

    def _uneven(self) -> bool:
        ranks = self._ranks.values()
        return any(not rank.flights for rank in ranks) and any(rank.line() > 1 and rank.askable() for rank in ranks)

    def _next_bundle(self) -> Piece | None:
        """The first tasks whose code is ready, as many as a rank runs in a few milliseconds."""
        holdings = self._holdings
        for _ in range(len(holdings.waiting)):
            item = holdings.waiting[0].grant.item
            if self._checked.get(item.code) == "":
                mean = self._durations.of(item.code, item.function)
                share = -(-holdings.waiting_count // max(1, len(self._ranks)))
                count = 1 if mean is None else int(self._limits.bundle_s / max(mean, 1e-6))
                return holdings.next_piece(max(1, min(count, share, self._limits.bundle_tasks_max)))
            holdings.waiting.rotate(-1)
        return None

    def _send_bundle(self, rank: Rank, piece: Piece, out: Effects) -> None:
        item = piece.grant.item
        mount = self._mounts[item.code]
        self._bundles += 1
        count = piece.hi - piece.lo
        mean = self._durations.of(item.code, item.function)
        rank.flights.append(
            Flight(self._bundles, piece.grant, piece.lo, piece.lo, piece.hi, 1.0 if mean is None else mean * count)
        )
        offsets, payload, inputs = payload_of(piece)
        bundle = m.Bundle(
            self._bundles, item.grant, item.batch, item.job, item.first + piece.lo - item.lo, piece.lo, count,
            item.attempt, mount.python, mount.workdir, mount.module, item.function, item.time_limit_s, offsets,
            payload, inputs,
        )  # fmt: skip
        out.send(rank.peer, bundle)

    def _code_checked(self, event: CodeChecked, now: float, out: Effects) -> None:
        self._checked[event.code] = event.problem
        if not event.problem:
            return
        for grant in [g for g in self._holdings.grants.values() if g.item.code == event.code]:
            item = grant.item
            for lo, hi in self._holdings.drop_waiting(grant, item.lo, item.lo + item.count):
                self._holdings.make(grant, lo, hi, Cause.ENVIRONMENT, failure("EnvironmentFailed", event.problem))

    def _tell_capacity(self, out: Effects) -> None:
        """How many tasks this node wants to hold: what its ranks run, and a buffer of 50 ms of work."""
        if not self._welcome:
            return
        ranks = len(self._ranks)
        mean = self._durations.overall
        each = 2 if mean is None else 1 + int(self._limits.buffer_s / max(mean, 1e-6))
        if mean is not None and mean > self._limits.buffer_s:
            each = 1 + (mean < 1.0)
        tasks = ranks * min(each, self._limits.capacity_per_rank_max)
        told, told_ranks, told_drain = self._capacity_told
        near = told > 0 and abs(tasks - told) <= told // 4
        if (near and ranks == told_ranks and self._draining == told_drain) or (tasks, ranks) == (told, told_ranks):
            if self._draining == told_drain:
                return
        self._capacity_told = (tasks, ranks, self._draining)
        out.send(BROKER, m.Capacity(tasks, ranks, self._draining))

    # --- time -----------------------------------------------------------------------------------------

    def _beat(self, now: float, out: Effects) -> None:
        self._beat_at = now + (self._limits.heartbeat_s if self._welcome else _HELLO_S)
        for rank in self._ranks.values():
            out.send(rank.peer, m.Beat(self._counter))
        if not self._welcome:
            self._hello(now, out)
        else:
            self._counter += 1
            out.actions.append(Sample())
            self._tell_running(out)
            again = self._holdings.offer_again(now - _OFFER_AGAIN_S, now)
            self._finished(again, out)
        if now - self._heard_at > 0.8 * self._limits.lease_s:
            self._fence(out)

    def _tell_running(self, out: Effects) -> None:
        """Only what is known to run has made an attempt when this node is lost."""
        running = [(r.flights[0].grant.item.grant, r.flights[0].next) for r in self._ranks.values() if r.flights]
        idle = sum(not r.flights for r in self._ranks.values())
        out.send(BROKER, m.Beat(self._counter, running, self._load, self._memory, idle))

    def _fence(self, out: Effects) -> None:
        """The lease is about to end unheard: end what runs, so that two attempts hardly overlap."""
        if self._fenced or self._holdings.empty:
            self._welcome = False
            return
        self._fenced = True
        self._welcome = False
        self._release_waiting()
        for rank in self._ranks.values():
            for flight in rank.flights:
                out.send(rank.peer, m.Kill(flight.bundle, flight.next, flight.hi - flight.next, Cause.PREEMPTED))

    def _sampled(self, event: Sampled, now: float, out: Effects) -> None:
        self._load, self._memory = event.load, event.memory_bytes

    # --- the end --------------------------------------------------------------------------------------

    def _signalled(self, event: Signalled, now: float, out: Effects) -> None:
        if event.what == "drain":
            self._drain(out)
        else:
            self._leave("walltime" if self._allocation else "stopped", now, out)

    def _drain(self, out: Effects) -> None:
        """Start nothing new; what has not started goes back at once, also from the ranks. What runs may end."""
        if not self._draining:
            self._draining = True
            self._release_waiting()
            for rank in self._ranks.values():
                for flight in rank.flights:
                    flight.reclaimed = False  # a part of it was; now all of it is wanted
            self._reclaim(1 << 30, out)

    def _release_waiting(self) -> None:
        """Give back what no rank has."""
        while (piece := self._holdings.next_piece(1 << 30)) is not None:
            self._holdings.make(piece.grant, piece.lo, piece.hi, Cause.RELEASED)

    def _leave(self, reason: str, now: float, out: Effects) -> None:
        if self._stop_at is not None:
            return
        self._stop_at = now + _STOP_S
        if self._holdings.fresh and self._welcome:
            self._finished(self._holdings.offer(now), out)
        self._tell_running(out)
        out.send(BROKER, m.Goodbye(reason))
        self._welcome = False  # the broker gives away what is not settled; what comes now is too late
        for rank in self._ranks.values():
            out.send(rank.peer, m.Stop(False))

    def _stopping(self, now: float, out: Effects) -> None:
        assert self._stop_at is not None
        if not self._ranks or now >= self._stop_at:
            for rank in self._ranks.values():
                out.actions.append(KillProcess(rank.pid, True))
            self.stopped = True


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


_Handler = Callable[[Agent, Any, float, Effects], None]

_FROM_BROKER: dict[type, _Handler] = {
    m.Welcome: Agent._welcomed,
    m.Unknown: Agent._unknown,
    m.Denied: Agent._denied,
    m.Mount: Agent._mount,
    m.Grant: Agent._grant,
    m.Recall: Agent._recall,
    m.Cancel: Agent._cancel,
    m.Kept: Agent._kept,
    m.Beat: Agent._broker_beat,
    m.Stop: Agent._stop,
}

_EVENTS: dict[type, _Handler] = {
    Unreachable: Agent._unreachable,
    ProcessExited: Agent._process_exited,
    CodeChecked: Agent._code_checked,
    Sampled: Agent._sampled,
    Signalled: Agent._signalled,
}
