"""The agent's machine: holds the lease of one node, takes grants, keeps outcomes until the broker has kept them.

Which ranks there are is the muster's business (core/muster.py), what each gets the bundler's (core/bundles.py).
An agent that has heard nothing for 0.8 of its lease ends what runs: the broker is about to give it to another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfi_hpc.core.bundles import Bundler
from pyfi_hpc.core.held import Holdings
from pyfi_hpc.core.muster import Muster
from pyfi_hpc.core.ranks import RankTable
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, KillProcess, Sample
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Received, Sampled, Signalled, Unreachable
from pyfi_hpc.model.ids import BROKER, Peer
from pyfi_hpc.model.inventory import NOTHING, Inventory, encode
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.states import Cause

#: no capacity that was told
_NOTHING: tuple[Any, ...] = (-1, -1, False, (), (), 0.0)
#: the least that is told of what tasks may take, seconds: 0 means that all are wanted
_SHORT_S = 0.001
#: between two hellos while no broker answers, seconds
_HELLO_S = 0.25
#: of a beat without whose answer the next one goes as soon as a hello would
_OVERDUE_BEATS = 1.25
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
    inventory : Inventory
        What the node has besides ranks.
    ends_at : float
        When the walltime of its allocation ends, by the clock of ``now``; inf: it has none.
    """

    def __init__(
        self, limits: Limits, name: str, incarnation: str, allocation: str, rank_count: int, cores: int,
        own_step: bool, now: float, inventory: Inventory = NOTHING, ends_at: float = float("inf"),
    ) -> None:  # fmt: skip
        self.stopped = False
        self._limits = limits
        self._name, self._incarnation, self._allocation = name, incarnation, allocation
        self._cores = cores
        self._ends_at = ends_at
        self._holdings = Holdings(limits.inputs_bytes_max)
        self._ranks = RankTable(limits.behind_s)
        self._muster = Muster(limits, self._ranks, self._holdings, rank_count, own_step, now)
        self._inventory = inventory
        self._bundler = Bundler(limits, self._holdings, self._muster, inventory, ends_at)
        self._welcome = False
        self._hello_at = now
        self._heard_at = now
        self._beat_at = now
        self._counter = 0
        self._capacity_told: tuple[Any, ...] = _NOTHING
        self._load, self._memory = 0.0, 0
        self._draining = False
        self._fenced = False
        #: the ranks start anew as soon as none has a task
        self._renewing = False
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
        if self._stop_at is None:
            self._muster.watch(now, out)
        if now >= self._beat_at:
            self._beat(now, out)
        self._bundler.watch(now, out)
        if self._draining:
            self._holdings.release_all()  # what ranks handed back, or died on
        elif self._renewing:
            self._renew_when_idle(now, out)
        elif not self._fenced:
            self._bundler.fill(now, out)
            if self._muster.resting and not self._bundler.usable():
                self._holdings.release_all()  # nobody here will run it soon
        if self._holdings.fresh and self._welcome:
            self._finished(self._holdings.offer(now), out)
        if self._stop_at is not None:
            self._stopping(now, out)
        elif self._draining and self._welcome and self._holdings.empty:
            self._leave("walltime", now, out)
        self._tell_capacity(now, out)

    def wake_at(self) -> float:
        if self._stop_at is not None:
            return min(self._beat_at, self._stop_at)
        wake = min(self._beat_at, self._muster.wake_at(), self._bundler.gangs_at())
        # while nothing is given to ranks, no line is evened out
        return wake if self._draining or self._fenced or self._renewing else min(wake, self._bundler.wake_at())

    # --- the broker -----------------------------------------------------------------------------------

    def _hello(self, now: float, out: Effects) -> None:
        if self._stop_at is not None:
            return
        self._hello_at = now
        running = {grant for grant, _ in self._bundler.running()}
        hello = m.Hello(
            PROTOCOL_VERSION, "agent", self._name, self._incarnation, len(self._ranks), self._cores, self._allocation,
            self._holdings.tell(running), encode(self._inventory),
            ends_in_s=max(0.001, self._ends_at - now) if self._ends_at < float("inf") else 0.0,
        )  # fmt: skip
        out.send(BROKER, hello)

    def _welcomed(self, message: m.Welcome, now: float, out: Effects) -> None:
        self._welcome = True
        self._fenced = False
        self._capacity_told = _NOTHING
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
        self._bundler.mount(message, out)

    def _grant(self, message: m.Grant, now: float, out: Effects) -> None:
        for item in message.items:
            if item.grant in self._holdings.grants:
                continue
            grant = self._holdings.take(item)
            self._bundler.want(item.code, out)
            if self._draining or self._renewing or self._stop_at is not None:
                self._holdings.make(grant, item.lo, item.lo + item.count, Cause.RELEASED)
            else:
                self._holdings.line_up(grant)

    def _renew(self, message: m.Renew, now: float, out: Effects) -> None:
        if not self._draining and self._stop_at is None:
            self._renewing = True
            self._holdings.release_all()
            self._bundler.reclaim_all(out)

    def _renew_when_idle(self, now: float, out: Effects) -> None:
        self._holdings.release_all()  # what ranks handed back
        if all(not rank.flights for rank in self._ranks.values()):
            self._renewing = False
            self._muster.renew(now, out)

    def _recall(self, message: m.Recall, now: float, out: Effects) -> None:
        self._bundler.recall(message.count, out)

    def _go(self, message: m.Go, now: float, out: Effects) -> None:
        self._bundler.go(message, now, out)

    def _cancel(self, message: m.Cancel, now: float, out: Effects) -> None:
        grant = self._holdings.grants.get(message.job)
        if grant is None:
            return
        item = grant.item
        lo = max(message.first, item.lo)
        hi = item.lo + item.count if message.count < 0 else min(message.first + message.count, item.lo + item.count)
        for start, end in self._holdings.drop_waiting(grant, lo, hi):
            self._holdings.make(grant, start, end, Cause.CANCELLED)
        self._bundler.kill(grant, lo, hi, Cause.CANCELLED, out)

    def _preempt(self, message: m.Preempt, now: float, out: Effects) -> None:
        grant = self._holdings.grants.get(message.grant)
        if grant is None:
            return
        lo, hi = message.first, message.first + message.count
        grant.unwanted = True
        for start, end in self._holdings.drop_waiting(grant, lo, hi):
            self._holdings.make(grant, start, end, Cause.RELEASED)
        self._bundler.preempt(grant, lo, hi, message.running, out)

    def _rest(self, message: m.Rest, now: float, out: Effects) -> None:
        self._muster.rest(message.rank, message.seconds, message.reason, now)
        if message.seconds > 0:
            self._bundler.reclaim_from(message.rank, out)

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
            self._muster.ready(peer, message, now, out)
            if self._stop_at is not None:
                out.send(peer, m.Stop(False))
            return
        rank = self._muster.by_peer.get(peer)
        if rank is None:
            return
        rank.heard_at = now
        if type(message) is m.Done and not self._bundler.done(rank, message, now):
            out.actions.append(KillProcess(rank.pid, True))
            self._muster.lost(rank, now, f"rank {rank.number} reported what cannot be")

    def _process_exited(self, event: ProcessExited, now: float, out: Effects) -> None:
        self._muster.exited(event, now)

    def _code_checked(self, event: CodeChecked, now: float, out: Effects) -> None:
        self._bundler.code_checked(event)

    def _unreachable(self, event: Unreachable, now: float, out: Effects) -> None:
        if event.peer == BROKER:
            self._welcome = False
            return
        rank = self._muster.by_peer.get(event.peer)
        if rank is not None:
            out.actions.append(KillProcess(rank.pid, True))
            self._muster.lost(rank, now, f"rank {rank.number} closed its connection")

    # --- time -----------------------------------------------------------------------------------------

    def _beat(self, now: float, out: Effects) -> None:
        overdue = now - self._heard_at > _OVERDUE_BEATS * self._limits.heartbeat_s
        # a broker that has moved is found by talking: see hosts.agent.Switch
        self._beat_at = now + (self._limits.heartbeat_s if self._welcome and not overdue else _HELLO_S)
        for rank in self._ranks.values():
            out.send(rank.peer, m.Beat(self._counter))
        if not self._welcome:
            self._hello(now, out)
        else:
            self._counter += 1
            out.actions.append(Sample())
            self._tell_running(out)
            self._bundler.tell(out)
            again = self._holdings.offer_again(now - _OFFER_AGAIN_S, now)
            self._finished(again, out)
        if now - self._heard_at > 0.8 * self._limits.lease_s:
            self._fence(out)

    def _tell_running(self, out: Effects) -> None:
        """Only what is known to run has made an attempt when this node is lost."""
        idle = len(self._ranks.idle)
        out.send(BROKER, m.Beat(self._counter, self._bundler.running(), self._load, self._memory, idle))

    def _fence(self, out: Effects) -> None:
        """The lease is about to end unheard: end what runs, so that two attempts hardly overlap."""
        if self._fenced or self._holdings.empty:
            self._welcome = False
            return
        self._fenced = True
        self._welcome = False
        self._holdings.release_all()
        self._bundler.kill_all(Cause.PREEMPTED, out)

    def _tell_capacity(self, now: float, out: Effects) -> None:
        """Tell what this node wants to hold, when that has changed by more than a quarter."""
        if not self._welcome:
            return
        resting = tuple(self._muster.resting.items())
        capacity = 0 if self._renewing else self._bundler.capacity()
        worlds, until = self._bundler.worlds(), self._bundler.short_until()
        new = (capacity, len(self._bundler.usable()), self._draining, resting, worlds, until)
        told = self._capacity_told
        if new == told or (new[1:] == told[1:] and told[0] > 0 and abs(new[0] - told[0]) <= told[0] // 4):
            return
        self._capacity_told = new
        rests = [(number, max(0.0, rest.until - now), rest.why) for number, rest in resting]
        short_s = max(_SHORT_S, until - now) if until else 0.0
        out.send(BROKER, m.Capacity(*new[:3], rests, list(new[4]), short_s))

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
            self._holdings.release_all()
            self._bundler.reclaim_all(out)

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
            self._bundler.leave(out)
            self.stopped = True


_Handler = Callable[[Agent, Any, float, Effects], None]

_FROM_BROKER: dict[type, _Handler] = {
    m.Welcome: Agent._welcomed,
    m.Unknown: Agent._unknown,
    m.Denied: Agent._denied,
    m.Mount: Agent._mount,
    m.Grant: Agent._grant,
    m.Go: Agent._go,
    m.Renew: Agent._renew,
    m.Recall: Agent._recall,
    m.Cancel: Agent._cancel,
    m.Preempt: Agent._preempt,
    m.Kept: Agent._kept,
    m.Rest: Agent._rest,
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
