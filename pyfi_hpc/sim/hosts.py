"""Processes of an imagined cluster: each runs one shipping machine by the rules of ``loop.Loop``.

A process may be frozen, as by SIGSTOP or a hung filesystem: what comes meanwhile waits, and the first round after the
thaw takes all of it before the machine looks at the time, as the loop does. Its clock is its own: only differences
count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyfi_hpc.errors import StaleEpoch
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.sim.failure import Violation

if TYPE_CHECKING:
    from pyfi_hpc.sim.world import World

_NEVER = float("inf")
#: a process wakes at least so much later than it asked, seconds: so that no rounding makes it ask for ever
_TICK_S = 1e-6
#: a machine that asks so often in a row to be woken at once, though nothing happens, keeps a core busy
SPINS_MAX = 50


class Host:
    """One process with one machine.

    Parameters
    ----------
    name : str
        In stories and errors.
    skew : float
        This machine's monotonic clock minus virtual time, seconds.
    """

    machine: Any
    #: a round takes so long, and what comes meanwhile is taken by the next one, as in ``loop.Loop``, seconds;
    #: 0: each event has its own
    round_s = 0.0

    def __init__(self, world: World, name: str, skew: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.skew = skew
        self.dead = False
        self.frozen = False
        self._inbox: list[Any] = []
        self._wake = _NEVER
        self._spins = 0
        self._round_at = 0.0

    @property
    def now(self) -> float:
        """By its own clock."""
        return self.world.now + self.skew

    def begin(self) -> None:
        """The loop starts: the machine is asked what it wants."""
        self._wake = self.world.now
        self.world.at(self.world.now, self._tick)

    def tell(self, *events: Any) -> None:
        """Events arrive together, in one round of the loop."""
        if self.dead or self.machine.stopped:
            return
        if self.frozen:
            self._inbox += events
        elif self.round_s:
            if not self._inbox:
                self.world.at(max(self.world.now, self._round_at + self.round_s), self._gathered)
            self._inbox += events
        else:
            self._round(events)

    def _gathered(self) -> None:
        if not self.dead and not self.frozen and self._inbox:
            self._round_at = self.world.now
            events, self._inbox = self._inbox, []
            self._round(events)

    def freeze(self) -> None:
        if not self.dead and not self.frozen:
            self.frozen = True
            self.world.tell(self.name, "frozen")

    def thaw(self) -> None:
        if self.frozen and not self.dead:
            self.frozen = False
            self.world.tell(self.name, "thawed")
            events, self._inbox = self._inbox, []
            self._round(events)

    def kill(self) -> None:
        """SIGKILL: nothing is said any more."""
        if not self.dead:
            self.dead = True
            self.frozen = False
            self.world.tell(self.name, "killed" if not self.machine.stopped else "ended")
            self.ended()

    def ended(self) -> None:
        """The process is gone, in order or not."""

    def carry_out(self, out: Effects) -> None:
        raise NotImplementedError

    def _round(self, events: Any) -> None:
        out = Effects()
        now = self.world.now + self.skew
        machine = self.machine
        try:
            for event in events:
                machine.handle(event, now, out)
            machine.advance(now, out)
        except (AssertionError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Violation(f"the machine of {self.name} failed: {type(error).__name__}: {error}") from error
        self.world.decisions += len(out.records) + len(out.messages) + len(out.at_once) + len(out.actions)
        self.carry_out(out)
        if machine.stopped:
            self.drained()
        elif not self.dead:
            self._schedule(machine.wake_at() - self.skew)

    def drained(self) -> None:
        """The machine has stopped: the process ends when everything has gone out."""
        self.kill()

    def _tick(self) -> None:
        if self.dead or self.machine.stopped or self.world.now < self._wake:
            return
        self._wake = _NEVER
        if not self.frozen:  # else the round of the thaw
            self._round(())

    def _schedule(self, wake: float) -> None:
        if wake > self.world.now:
            self._spins = 0
        elif self._spins > SPINS_MAX:
            raise Violation(f"{self.name} keeps a core busy: it wants to be woken at once, again and again")
        else:
            self._spins += 1
        if wake < self._wake:
            self._wake = max(wake, self.world.now + _TICK_S)
            self.world.at(self._wake, self._tick)

    def stale(self, error: StaleEpoch) -> None:
        """The ledger has another writer."""
        self.world.tell(self.name, f"ends: {error.what}")
        self.kill()
