"""A node of the imagined cluster: its agent, its ranks, and who starts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyfi_hpc.core.agent import Agent
from pyfi_hpc.model.effects import (
    CheckCode,
    Effects,
    EndStep,
    KillProcess,
    ReplaceRank,
    Sample,
    StartRanks,
    WatchProcess,
)
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Received, Sampled, Signalled, Unreachable
from pyfi_hpc.model.ids import BROKER, Peer
from pyfi_hpc.sim.hosts import Host
from pyfi_hpc.sim.network import Line
from pyfi_hpc.sim.ranks import ImaginedRank, RankHost
from pyfi_hpc.wire import codec

if TYPE_CHECKING:
    from pyfi_hpc.sim.cluster import Cluster

#: numbers of ranks of one node in a world of several
_WORLD_NODE = 100
#: the agent hears of a process that ended after so long, seconds
_NOTICED_S = 0.001
#: from the rank step's end to its next start by the batch script, seconds
_STEP_AGAIN_S = 1.0


class AgentHost(Host):
    """An agent and the ranks of its node.

    Parameters
    ----------
    allocation : str
        Under Slurm: then the batch script starts the ranks, and the walltime ends everything.
    ends_in_s : float
        As the agent knows it.
    """

    def __init__(self, world: Cluster, node: str, allocation: str = "", ends_in_s: float = float("inf")) -> None:
        name = f"{node}/{allocation}" if allocation else node
        chance = world.chance(f"agent {name} {world.processes_made}")
        super().__init__(world, name, world.plan.skew_s * chance.random())
        self.cluster = world
        self.node = node
        self._chance = chance
        self._own_step = not allocation
        self.machine = Agent(
            world.limits, node, f"{chance.random()}", allocation, world.plan.ranks_per_node, 4, self._own_step,
            self.now, ends_at=self.now + ends_in_s,
        )  # fmt: skip
        self.ends_in_s = ends_in_s
        #: rank-seconds of attempts that ended with their runner
        self.cut_s = 0.0
        self.ranks: dict[int, RankHost | ImaginedRank] = {}
        self._by_peer: dict[Peer, RankHost | ImaginedRank] = {}
        self.line = Line(world.net, self, "agent")
        #: the script or the node starts ranks as long as this holds
        self.up = True
        self.begin()
        if not self._own_step:
            self._start_step()

    # --- what it says and hears -----------------------------------------------------------------------

    def hear(self, messages: Sequence[Any]) -> None:
        """A frame of the broker."""
        self.tell(*[Received(BROKER, "broker", "", message) for message in messages])

    def carry_out(self, out: Effects) -> None:
        by_peer: dict[Peer, list[Any]] = {}
        for peer, message in out.at_once + out.messages:
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            if not self._send(peer, messages):
                self.world.at(self.world.now, self.tell, Unreachable(peer))
        for action in out.actions:
            _ACTIONS[type(action)](self, action)

    def _send(self, peer: Peer, messages: list[Any]) -> bool:
        if peer == BROKER:
            return self.line.send(messages)
        rank = self._by_peer.get(peer)
        if rank is None or rank.dead:
            return False
        if self.world.story is not None:
            for message in messages:
                self.world.tell(f"{self.name} -> {rank.name}", "", message)
        if self.cluster.net.codec:
            messages = codec.decode(codec.encode(messages), codec.TO_RANK)
        rank.line_down(messages)
        return True

    def freeze(self) -> None:
        super().freeze()
        if self.line.connection is not None:
            self.cluster.net.freeze(self, [self.line.connection])

    # --- what it does to its node ---------------------------------------------------------------------

    def _start_ranks(self, action: StartRanks) -> None:
        world = "w" if self.cluster.plan.one_world else self.name
        first = _WORLD_NODE * int(self.node[1:]) if self.cluster.plan.one_world else 0
        for number in range(first, first + action.count):
            self.world.after(self._start_s(), self._add_rank, number, world)

    def _replace_rank(self, action: ReplaceRank) -> None:
        self.world.after(self._start_s(), self._add_rank, action.rank, "")

    def _start_step(self) -> None:
        self._start_ranks(StartRanks(self.cluster.plan.ranks_per_node))

    def _start_s(self) -> float:
        plan = self.cluster.plan
        slow = plan.slow_start and self._chance.random() < plan.slow_start
        if slow:
            self.cluster.count("slow starts")
        return plan.rank_start_s * (5.0 + 10.0 * self._chance.random() if slow else 1.0)

    def _kill_process(self, action: KillProcess) -> None:
        for rank in list(self.ranks.values()):
            if rank.pid == action.pid:
                rank.kill()

    def _check_code(self, action: CheckCode) -> None:
        problem = ""
        if self._chance.random() < self.cluster.plan.code_missing:
            self.cluster.count("code not there")
            problem = "the cache is not mounted"
        self.world.after(0.01, self.tell, CodeChecked(action.code, problem))

    def _end_step(self, action: EndStep) -> None:
        pass  # imagined steps have no processes

    def _sample(self, action: Sample) -> None:
        self.world.after(_NOTICED_S, self.tell, Sampled(0.5, 1 << 30))

    def _watch_process(self, action: WatchProcess) -> None:
        if all(rank.pid != action.pid for rank in self.ranks.values()):
            self.world.after(_NOTICED_S, self.tell, ProcessExited(action.pid, "gone"))

    def _add_rank(self, number: int, world: str) -> None:
        if not self.up or number in self.ranks or (self.dead and self._own_step):
            return
        kind = RankHost if self.cluster.plan.real_ranks else ImaginedRank
        rank = kind(self, number, world)
        self.ranks[number] = rank
        self._by_peer[rank.peer] = rank
        rank.begin()

    def rank_ended(self, rank: RankHost | ImaginedRank) -> None:
        if self.ranks.get(rank.number) is rank:
            del self.ranks[rank.number]
        self._by_peer.pop(rank.peer, None)
        self.world.after(_NOTICED_S, self.tell, ProcessExited(rank.pid, "signal 9"))
        if not self._own_step and not self.ranks:
            self.world.after(_STEP_AGAIN_S, self._step_again)

    def _step_again(self) -> None:
        if self.up and not self.ranks and not self.dead:
            self._start_step()

    # --- what befalls it ------------------------------------------------------------------------------

    def ended(self) -> None:
        self.line.tear(late_s=0.001)
        for rank in list(self.ranks.values()):
            rank.agent_gone()
        self.cluster.agent_ended(self)

    def lose_node(self) -> None:
        """The machine is gone, and nothing tells: the broker's socket notices by its heartbeat."""
        self.up = False
        self.world.tell(self.name, "node lost")
        for rank in list(self.ranks.values()):
            rank.kill()
        connection = self.line.connection
        if connection is not None:
            self.line.tear(late_s=1.0 + 4.0 * self._chance.random())
        self.kill()

    def cut(self, seconds: float) -> None:
        self.cut_s += seconds
        self.cluster.cut_s += seconds

    def kill_rank(self, number: int) -> None:
        rank = self.ranks.get(number)
        if rank is not None:
            rank.kill()

    def end_of_walltime(self, grace_s: float) -> None:
        """Slurm's way: TERM to every process of the job, KILL after the grace."""
        self.up = False
        self.world.tell(self.name, "walltime")
        for rank in list(self.ranks.values()):
            rank.terminate()
        self.tell(Signalled("stop"))
        self.world.after(grace_s, self._walltime_kill)

    def _walltime_kill(self) -> None:
        for rank in list(self.ranks.values()):
            rank.kill()
        self.kill()


_ACTIONS: dict[type, Any] = {
    StartRanks: AgentHost._start_ranks,
    ReplaceRank: AgentHost._replace_rank,
    KillProcess: AgentHost._kill_process,
    CheckCode: AgentHost._check_code,
    EndStep: AgentHost._end_step,
    Sample: AgentHost._sample,
    WatchProcess: AgentHost._watch_process,
}
