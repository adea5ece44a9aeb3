"""The muster: which ranks are here, which died, how they are replaced, and which rest.

    starting --RankReady--> here --ProcessExited, silence--> missing --ReplaceRank--> here

A rank rests when the broker says so (core/health.py), or when its process died or did not come three times with no task
completed in between. A task that has killed two ranks speaks against itself, and no longer against them.
"""

from __future__ import annotations

from pyfi_hpc.core.held import Holdings
from pyfi_hpc.core.ranks import Rank, RankTable, Resting
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, KillProcess, ReplaceRank, StartRanks, WatchProcess
from pyfi_hpc.model.events import ProcessExited
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import failure
from pyfi_hpc.model.states import Cause

#: a rank that says nothing for so long is ended and replaced, seconds
_RANK_SILENCE_S = 10.0
#: between two looks for silent ranks, seconds
_LOOK_S = 0.5
#: from the loss of a rank to its replacement: others of its step may be dying too, seconds
_REPLACE_AFTER_S = 0.3
#: a rank step that was started must be there after so long, seconds
_STEP_START_S = 60.0
#: from a rank, or a rank step, that ended at once to the next try, seconds
_STEP_AGAIN_S = 2.0
#: falls of a rank, or starts of the step that came to nothing, after which it rests
_FALLS_MAX = 3
#: in place of a rank's number: the start of all ranks
STEP = -1
#: ranks that were told to stop, and their launcher, have gone after so long, seconds
_RENEW_S = 5.0
#: the batch script starts a broken step anew within so long, seconds
_STEP_OF_SCRIPT_S = 10.0


class Muster:
    """The ranks of one node.

    Parameters
    ----------
    limits : Limits
    ranks : RankTable
        Filled here.
    holdings : Holdings
        Where the tasks of a rank that died go.
    rank_count : int
        Ranks that should be here.
    own_step : bool
        Whether this agent starts the rank step; under Slurm the batch script does.
    now : float
    """

    def __init__(
        self, limits: Limits, ranks: RankTable, holdings: Holdings, rank_count: int, own_step: bool, now: float
    ) -> None:
        self._limits = limits
        self.ranks = ranks
        self.by_peer: dict[Peer, Rank] = {}
        self._holdings = holdings
        self._rank_count, self._own_step = rank_count, own_step
        #: rank numbers that died -> (core, when)
        self._missing: dict[int, tuple[int, float]] = {}
        #: of those, the ones whose replacement was asked for -> when it is asked for again
        self._asked: dict[int, float] = {}
        #: rank numbers, or STEP, that rest
        self.resting: dict[int, Resting] = {}
        #: what speaks against a rank since a task last completed there: the task that ran at each fall, or None
        self._falls: dict[int, list[tuple[int, int] | None]] = {}
        #: how long the last rest of a rank was, until a task completes there
        self._rested_s: dict[int, float] = {}
        #: pids of ranks that were told to end, and whether their launcher is still to end before the next one starts
        self._leaving: set[int] = set()
        self._renewing = False
        self._step_until = now + _STEP_START_S if not own_step else 0.0
        #: when to look for silent ranks; an agent beats, so it looks about then
        self._look_at = now

    def wake_at(self) -> float:
        rested = min((rest.until for rest in self.resting.values()), default=float("inf"))
        if self._own_step and not self.ranks:
            return min(rested, max(self._step_until, self._settled_at()))
        if self._missing and self.ranks:
            due = [self._asked.get(number, 0.0) for number in self._missing if number not in self.resting]
            rested = min(rested, max(min(due, default=rested), self._settled_at()))
        return rested

    def ready(self, peer: Peer, message: m.RankReady, now: float, out: Effects) -> None:
        old = self.ranks.get(message.rank)
        if old is not None and (old.peer, old.pid) == (peer, message.pid):
            old.world_id = message.world_id  # its MPI process has ended
            return
        if old is not None:
            if old.pid != message.pid:
                out.actions.append(KillProcess(old.pid, True))
            self.lost(old, now, "another rank took its place", Cause.PREEMPTED)
        rank = Rank(message.rank, peer, message.pid, message.core, now, message.world_id)
        self.ranks.add(rank)
        self.by_peer[peer] = rank
        self._missing.pop(message.rank, None)
        self._asked.pop(message.rank, None)
        self._step_until = 0.0
        self.well(STEP)
        self.resting.pop(STEP, None)
        out.actions.append(WatchProcess(message.pid))

    def exited(self, event: ProcessExited, now: float) -> None:
        """A watched process has ended: a rank, or the launcher of the step."""
        rank = next((r for r in self.ranks.values() if r.pid == event.pid), None)
        if event.pid in self._leaving:
            self._leaving.discard(event.pid)
        elif self._renewing and event.replaces < 0:
            self._renewing = False
            self._step_until = now
        elif rank is not None:
            self.lost(rank, now, f"rank {rank.number} died: {event.how}")
        elif self.ranks and event.replaces in self._missing:
            self._asked[event.replaces] = now + _STEP_AGAIN_S
            if event.pid:  # else the node had no process to give, which says nothing of the rank
                self._fell(event.replaces, None, now, f"its process does not start: {event.how}")
        elif self._own_step and not self.ranks:
            # the launcher: nobody came of it
            self._fell(STEP, None, now, f"its ranks do not start: {event.how}")
            rest = self.resting.get(STEP)
            self._step_until = rest.until if rest else now + _STEP_AGAIN_S

    def lost(self, rank: Rank, now: float, why: str, cause: Cause = Cause.RANK_LOST) -> None:
        """The task that ran has made an attempt; those behind it never started and go to other ranks."""
        self.ranks.remove(rank)
        self.by_peer.pop(rank.peer, None)
        first = now >= self._settled_at()  # those that follow at once were taken along with it
        self._missing[rank.number] = (rank.core, now)
        self._asked.pop(rank.number, None)
        task: tuple[int, int] | None = None
        for position, flight in reversed(list(enumerate(rank.flights))):
            start = flight.next
            if position == 0 and start < flight.hi:
                self._holdings.make(flight.grant, start, start + 1, cause, failure("TaskLost", why))
                task = (flight.grant.item.batch, start)
                self._holdings.died[task] = (rank.number, now)
                start += 1
            self._holdings.wait(flight.grant, start, flight.hi, first=True)
        rank.flights.clear()
        if cause is Cause.RANK_LOST and first:
            self._fell(rank.number, task, now, f"its process ended again and again; the last time: {why}")

    def renew(self, now: float, out: Effects) -> None:
        """All ranks end, and start as one world again; they have no tasks."""
        for rank in list(self.ranks.values()):
            out.send(rank.peer, m.Stop(False))
            self.ranks.remove(rank)
            self.by_peer.pop(rank.peer, None)
            self._leaving.add(rank.pid)
        self._missing.clear()
        self._asked.clear()
        self._renewing = self._own_step
        self._step_until = now + (_RENEW_S if self._own_step else _STEP_START_S)

    # --- rest -----------------------------------------------------------------------------------------

    def rest(self, number: int, seconds: float, why: str, now: float) -> None:
        """This rank gets no tasks for so long; 0: it may work again, and nothing is held against it."""
        if seconds > 0:
            self.resting[number] = Resting(now + seconds, why)
            return
        self.well(number)
        rest = self.resting.pop(number, None)
        if rest is not None:
            self._asked.pop(number, None)
        if rest is not None and number == STEP:
            self._step_until = now

    def well(self, number: int) -> None:
        """A task completed there, or ranks came: what was held against it is forgotten."""
        if self._falls or self._rested_s:
            self._falls.pop(number, None)
            self._rested_s.pop(number, None)

    def _fell(self, number: int, task: tuple[int, int] | None, now: float, why: str) -> None:
        """A rank, or the step, ended by itself while this task ran."""
        if task is not None:
            others = [n for n, tasks in self._falls.items() if n != number and task in tasks]
            for other in others:  # the task kills every rank that it meets
                self._falls[other].remove(task)
                if other in self._rested_s and len(self._falls[other]) < _FALLS_MAX:
                    self.rest(other, 0.0, "", now)
            if others:
                return
        falls = self._falls.setdefault(number, [])
        if task is None or task not in falls:
            falls.append(task)
        if len(falls) >= (1 if number in self._rested_s else _FALLS_MAX):
            last = self._rested_s.get(number, 0.0)
            self._rested_s[number] = min(2 * last or self._limits.quarantine_s, self._limits.quarantine_s_max)
            self.resting[number] = Resting(now + self._rested_s[number], why)

    def watch(self, now: float, out: Effects) -> None:
        """Replace ranks that died; start the step anew when all of it is gone."""
        for number in [n for n, rest in self.resting.items() if now >= rest.until]:
            del self.resting[number]
            self._asked.pop(number, None)
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            for rank in [r for r in self.ranks.values() if now - r.heard_at > _RANK_SILENCE_S]:
                out.actions.append(KillProcess(rank.pid, True))
                self.lost(rank, now, f"rank {rank.number} said nothing for {_RANK_SILENCE_S:.0f} s")
        if now < self._settled_at():
            return
        if self._own_step and not self.ranks and self._step_until <= now:
            self._missing.clear()
            self._asked.clear()
            self._step_until = now + _STEP_START_S
            self._renewing = False
            out.actions.append(StartRanks(self._rank_count))
        elif self._missing and self._replaces(now):
            for number, (core, _) in self._missing.items():
                if number not in self.resting and now >= self._asked.get(number, 0.0):
                    self._asked[number] = now + _STEP_START_S
                    out.actions.append(ReplaceRank(number, core))

    def _replaces(self, now: float) -> bool:
        """Whether ranks are replaced one by one: without survivors the batch script may be starting a new step."""
        if self.ranks:
            return True
        return not self._own_step and now >= max(at for _, at in self._missing.values()) + _STEP_OF_SCRIPT_S

    def _settled_at(self) -> float:
        """A rank that died lately may be followed by others of its step: until then nothing is started."""
        return max((at for _, at in self._missing.values()), default=-_REPLACE_AFTER_S) + _REPLACE_AFTER_S
