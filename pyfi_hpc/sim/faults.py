"""What befalls an imagined cluster: a table of faults, each drawn by a plan at any moment.

Each fault arranges for its own end; ``heal`` ends what still lasts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable
from pyfi_hpc.sim.network import DOWN, UP
from pyfi_hpc.sim.ranks import RankHost

if TYPE_CHECKING:
    from pyfi_hpc.sim.agents import AgentHost
    from pyfi_hpc.sim.cluster import Cluster

#: nodes of an imagined cluster at most, and at least once it is healed
_NODES_MAX, _NODES_MIN = 6, 2


class Faults:
    """Chooses and carries out; keeps a broker and nodes coming.

    Parameters
    ----------
    cluster : Cluster
    chance : random.Random
    """

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._nodes = cluster.plan.nodes
        self._frozen: list[Any] = []
        self._restarting = False
        cluster.when_broker_ends = self._keep_broker

    def strike(self) -> None:
        """One fault."""
        (fault,) = self._chance.choices(list(FAULTS), weights=list(FAULTS.values()))
        name = fault.__name__.strip("_").replace("_", " ")
        self._cluster.tell("fault", name)
        self._cluster.count(name)
        fault(self)

    def heal(self) -> None:
        """The storm is over: everything thaws, paths open, a broker and nodes are there."""
        cluster = self._cluster
        cluster.tell("fault", "all is healed")
        self._fair_weather()
        cluster.store.down = False
        cluster.plan.code_missing = cluster.plan.import_fails = cluster.plan.slow_start = 0.0
        for line in [agent.line for agent in cluster.agents.values()] + [client.line for client in cluster.clients]:
            line.heal()
        for host in self._frozen:
            host.thaw()
        self._start_broker()
        self.keep_nodes()

    def keep_nodes(self) -> None:
        """Nodes that have no end: what takes long may need one, or several together. One may still go after the storm,
        when it was told before that it will."""
        cluster = self._cluster
        while sum(agent.up and agent.ends_in_s == float("inf") for agent in cluster.agents.values()) < _NODES_MIN:
            self._new_node(ends=False)

    # --- brokers --------------------------------------------------------------------------------------

    def _keep_broker(self) -> None:
        if not self._restarting:
            self._restarting = True
            self._cluster.after(self._chance.random() * 3.0, self._start_broker)

    def _start_broker(self) -> None:
        self._restarting = False
        if self._cluster.broker is None:
            try:
                self._cluster.start_broker(elsewhere=self._chance.random() < 0.2)
            except (BrokerHeld, LedgerUnavailable):
                self._keep_broker()

    def _broker_dies(self) -> None:
        if self._cluster.broker is not None:
            self._cluster.kill_broker()

    def _broker_dies_at_a_commit(self) -> None:
        self._cluster.disk.script.append(self._chance.choice(["crash before", "crash after"]))

    def _broker_freezes(self) -> None:
        if self._cluster.broker is not None:
            self._freeze(self._cluster.broker, 12.0)

    def _another_broker_takes_over(self) -> None:
        """The first is frozen and its session with the ledger ends; when it thaws, it finds another in its place."""
        broker = self._cluster.broker
        if broker is None:
            return
        self._freeze(broker, 8.0)
        broker.disk.lose_session()
        try:
            self._cluster.start_broker(elsewhere=True)
        except LedgerUnavailable:
            self._keep_broker()

    # --- the ledger -----------------------------------------------------------------------------------

    def _commit_fails(self) -> None:
        self._cluster.disk.script.append(self._chance.choice(["fail", "lose", "lose early"]))

    def _ledger_is_ill(self) -> None:
        w = self._cluster.disk
        w.slow, w.slow_s = 0.3, self._chance.choice([0.05, 0.5, 3.0])
        w.fail, w.lose, w.lose_early = 0.1, 0.05, 0.05
        self._cluster.after(self._chance.random() * 8.0, self._well_again)

    def _well_again(self) -> None:
        w = self._cluster.disk
        w.slow = w.fail = w.lose = w.lose_early = 0.0

    def _ledger_is_away(self) -> None:
        self._cluster.store.down = True
        self._cluster.after(self._chance.random() * 10.0, self._ledger_back)

    def _ledger_back(self) -> None:
        self._cluster.store.down = False

    # --- the network ----------------------------------------------------------------------------------

    def _connection_breaks(self) -> None:
        line = self._any_line()
        late = self._chance.choice([0.0, 0.01, 2.0, 5.0])
        if self._chance.random() < 0.5:
            line.tear(late_s=late)
        else:
            line.tear(late_s=0.01, dealer_late_s=late)
        if self._chance.random() < 0.5:
            line.close(self._chance.random() * 4.0)

    def _path_closes(self) -> None:
        ways = self._chance.choice([(UP, DOWN), (UP,), (DOWN,)])
        self._any_line().close(self._chance.random() * 12.0, ways)

    def _network_splits(self) -> None:
        """The broker's side and some nodes."""
        seconds = self._chance.random() * 12.0
        for agent in self._agents():
            if self._chance.random() < 0.5:
                agent.line.close(seconds)

    def _network_is_slow(self) -> None:
        w = self._cluster.net.weather
        w.slow, w.slow_s = 0.3, self._chance.choice([0.01, 0.2, 2.0])
        self._cluster.after(self._chance.random() * 8.0, self._fast_again)

    def _fast_again(self) -> None:
        self._cluster.net.weather.slow = 0.0

    def _network_is_harsh(self) -> None:
        w = self._cluster.net.weather
        w.lose = w.double = 0.05
        self._cluster.after(self._chance.random() * 8.0, self._mild_again)

    def _mild_again(self) -> None:
        w = self._cluster.net.weather
        w.lose = w.double = 0.0

    # --- nodes ----------------------------------------------------------------------------------------

    def _node_is_lost(self) -> None:
        for agent in self._agents(1):
            agent.lose_node()
            self._cluster.after(self._chance.random() * 5.0, self._new_node)

    def _agent_dies(self) -> None:
        """Alone: its ranks are left; somebody starts it again under the same name."""
        for agent in self._agents(1):
            agent.up = False
            agent.kill()
            self._cluster.after(0.2 + self._chance.random() * 4.0, self._again, agent.node)

    def _again(self, node: str) -> None:
        if all(agent.node != node for agent in self._cluster.agents.values()):
            self._start(node)

    def _allocation_ends(self) -> None:
        """Walltime, or somebody stops the node: drained, told, killed."""
        for agent in self._agents(1):
            kind = self._chance.randrange(3)
            if kind == 0:
                self._cluster.drain(agent.name)
            elif kind == 1:
                agent.end_of_walltime(0.5 + self._chance.random() * 4.0)
            else:
                self._cluster.walltime(agent.name, self._chance.random() * 4.0, 0.5 + self._chance.random() * 4.0)
            self._cluster.after(self._chance.random() * 5.0, self._new_node)

    def _preemption(self) -> None:
        """KILL to everything of an allocation after a short TERM."""
        for agent in self._agents(1):
            agent.end_of_walltime(0.05)
            self._cluster.after(self._chance.random() * 5.0, self._new_node)

    def _node_joins(self) -> None:
        self._new_node()

    def _agent_freezes(self) -> None:
        for agent in self._agents(1):
            self._freeze(agent, 12.0)

    def _node_freezes(self) -> None:
        for agent in self._agents(1):
            for host in (agent, *agent.ranks.values()):
                self._freeze(host, 12.0)

    # --- ranks ----------------------------------------------------------------------------------------

    def _rank_dies(self) -> None:
        for rank in self._ranks():
            rank.kill()

    def _rank_freezes(self) -> None:
        for rank in self._ranks():
            self._freeze(rank, 14.0)

    def _runner_dies(self) -> None:
        for rank in self._ranks():
            if isinstance(rank, RankHost):
                for runner in list(rank.runners.values()):
                    runner.signal(9)

    def _rank_step_breaks(self) -> None:
        """All ranks of a node at once, as MPI ends them."""
        for agent in self._agents(1):
            for rank in list(agent.ranks.values()):
                rank.kill()

    # --- clients --------------------------------------------------------------------------------------

    def _client_dies(self) -> None:
        """Another one attaches to what it had submitted."""
        cluster = self._cluster
        living = [client for client in cluster.clients if not client.dead]
        client = self._chance.choice(living)
        client.kill()
        heir = cluster.join(f"c{len(cluster.clients) + 1}")
        for job in sorted(set(client.accepted.values())):
            heir.attach(job)

    def _client_freezes(self) -> None:
        self._freeze(self._chance.choice([c for c in self._cluster.clients if not c.dead]), 8.0)

    # --- helpers --------------------------------------------------------------------------------------

    def _fair_weather(self) -> None:
        self._well_again()
        self._fast_again()
        self._mild_again()
        self._cluster.disk.script.clear()

    def _freeze(self, host: Any, seconds_max: float) -> None:
        host.freeze()
        self._frozen.append(host)
        self._cluster.after(self._chance.random() * seconds_max, host.thaw)

    def _agents(self, count: int = 99) -> list[AgentHost]:
        living = [agent for agent in self._cluster.agents.values() if agent.up]
        return self._chance.sample(living, min(count, len(living)))

    def _ranks(self) -> list[Any]:
        ranks = [rank for agent in self._cluster.agents.values() for rank in agent.ranks.values()]
        return self._chance.sample(ranks, min(len(ranks), self._chance.choice([1, 1, 2])))

    def _any_line(self) -> Any:
        lines = [agent.line for agent in self._cluster.agents.values()]
        return self._chance.choice(lines + [client.line for client in self._cluster.clients if not client.dead])

    def _new_node(self, ends: bool = True) -> None:
        if len(self._cluster.agents) < _NODES_MAX or not ends:
            self._nodes += 1
            self._start(f"n{self._nodes}", ends)

    def _start(self, node: str, ends: bool = True) -> None:
        """Under Slurm some know their end, and it comes."""
        chance, slurm = self._chance, self._cluster.plan.slurm
        self._nodes += slurm
        if slurm and ends and chance.random() < 0.5:
            self._cluster.count("walltimes that are known")
            drain_s = chance.choice([0.5, 2.0])
            walltime_s = drain_s + chance.uniform(1.0, 20.0)
            self._cluster.start_allocation(node, f"{self._nodes}", walltime_s, drain_s, chance.choice([0.1, 2.0]))
        else:
            self._cluster.start_agent(node, f"{self._nodes}" if slurm else "")


Fault = Callable[[Faults], None]
#: faults and how often each is drawn
FAULTS: dict[Fault, int] = {
    Faults._broker_dies: 4, Faults._broker_dies_at_a_commit: 4, Faults._broker_freezes: 3,
    Faults._another_broker_takes_over: 3, Faults._commit_fails: 4, Faults._ledger_is_ill: 3, Faults._ledger_is_away: 2,
    Faults._connection_breaks: 5, Faults._path_closes: 4, Faults._network_splits: 2, Faults._network_is_slow: 2,
    Faults._network_is_harsh: 2, Faults._node_is_lost: 3, Faults._agent_dies: 3, Faults._allocation_ends: 4,
    Faults._preemption: 2, Faults._node_joins: 2, Faults._agent_freezes: 3, Faults._node_freezes: 2,
    Faults._rank_dies: 4, Faults._rank_freezes: 3, Faults._runner_dies: 4, Faults._rank_step_breaks: 2,
    Faults._client_dies: 2, Faults._client_freezes: 1,
}  # fmt: skip
