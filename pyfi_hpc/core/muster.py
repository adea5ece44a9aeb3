"""The muster: which ranks are here, which died, and how they are replaced.

    starting --RankReady--> here --ProcessExited, silence--> missing --ReplaceRank--> here
"""

from __future__ import annotations

from pyfi_hpc.core.held import Holdings
from pyfi_hpc.core.ranks import Rank, RankTable
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, KillProcess, ReplaceRank, StartRanks, WatchProcess
from pyfi_hpc.model.ids import Peer
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
#: from a rank step that ended at once to the next try, seconds
_STEP_AGAIN_S = 2.0
#: the batch script starts a broken step anew within so long, seconds
_STEP_OF_SCRIPT_S = 10.0


class Muster:
    """The ranks of one node.

    Parameters
    ----------
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

    def __init__(self, ranks: RankTable, holdings: Holdings, rank_count: int, own_step: bool, now: float) -> None:
        self.ranks = ranks
        self.by_peer: dict[Peer, Rank] = {}
        self._holdings = holdings
        self._rank_count, self._own_step = rank_count, own_step
        #: rank numbers that died -> (core, when)
        self._missing: dict[int, tuple[int, float]] = {}
        #: of those, the ones whose replacement was asked for -> when it is asked for again
        self._asked: dict[int, float] = {}
        self._step_until = now + _STEP_START_S if not own_step else 0.0
        #: when to look for silent ranks; an agent beats, so it looks about then
        self._look_at = now

    def wake_at(self) -> float:
        if self._own_step and not self.ranks:
            return max(self._step_until, self._settled_at())
        if self._missing and self.ranks:
            return max(min(self._asked.get(number, 0.0) for number in self._missing), self._settled_at())
        return float("inf")

    def ready(self, peer: Peer, message: m.RankReady, now: float, out: Effects) -> None:
        old = self.ranks.get(message.rank)
        if old is not None:
            if old.pid != message.pid:
                out.actions.append(KillProcess(old.pid, True))
            self.lost(old, now, "another rank took its place", Cause.PREEMPTED)
        rank = Rank(message.rank, peer, message.pid, message.core, now, message.world)
        self.ranks.add(rank)
        self.by_peer[peer] = rank
        self._missing.pop(message.rank, None)
        self._asked.pop(message.rank, None)
        self._step_until = 0.0
        out.actions.append(WatchProcess(message.pid))

    def exited(self, pid: int, how: str, now: float) -> None:
        """A watched process has ended: a rank, or the launcher of the step."""
        rank = next((r for r in self.ranks.values() if r.pid == pid), None)
        if rank is not None:
            self.lost(rank, now, f"rank {rank.number} died: {how}")
        elif self._own_step and not self.ranks:
            self._step_until = now + _STEP_AGAIN_S  # the launcher: nobody came of it

    def lost(self, rank: Rank, now: float, why: str, cause: Cause = Cause.RANK_LOST) -> None:
        """The task that ran has made an attempt; those behind it never started and go to other ranks."""
        self.ranks.remove(rank)
        self.by_peer.pop(rank.peer, None)
        self._missing[rank.number] = (rank.core, now)
        self._asked.pop(rank.number, None)
        for position, flight in reversed(list(enumerate(rank.flights))):
            start = flight.next
            if position == 0 and start < flight.hi:
                self._holdings.make(flight.grant, start, start + 1, cause, failure("TaskLost", why))
                start += 1
            self._holdings.wait(flight.grant, start, flight.hi, first=True)
        rank.flights.clear()

    def watch(self, now: float, out: Effects) -> None:
        """Replace ranks that died; start the step anew when all of it is gone."""
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
            out.actions.append(StartRanks(self._rank_count))
        elif self._missing and self._replaces(now):
            for number, (core, _) in self._missing.items():
                if now >= self._asked.get(number, 0.0):
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
