"""An imagined cluster: brokers on one ledger, nodes with ranks, clients, and everything that can befall them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pyfi_hpc.core.rank import RankMachine
from pyfi_hpc.ledger.memory import MemoryStore
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.events import Signalled, SocketSpec
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.sim.agents import AgentHost
from pyfi_hpc.sim.audit import Audit
from pyfi_hpc.sim.brokers import BrokerHost
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.disk import DiskWeather
from pyfi_hpc.sim.failure import expect
from pyfi_hpc.sim.network import Network
from pyfi_hpc.sim.story import Story
from pyfi_hpc.sim.world import World


@dataclass(slots=True)
class Plan:
    """What the imagined cluster is like."""

    nodes: int = 2
    ranks_per_node: int = 2
    latency_s: float = 0.0005
    commit_s: float = 0.001
    rank_start_s: float = 0.5
    #: how long a runner imports its module, seconds
    import_s: float = 0.02
    #: chance that a rank or a runner takes ten times as long to start
    slow_start: float = 0.0
    #: chance that a node finds the code missing, that a runner's import fails
    code_missing: float = 0.0
    import_fails: float = 0.0
    #: clocks of the machines differ by up to so much, seconds
    skew_s: float = 0.0
    #: under Slurm ranks are a step of the batch script, and nodes have a walltime
    slurm: bool = False
    #: all nodes are one allocation of Slurm, and its ranks one MPI world; else those of each node
    one_world: bool = False
    #: ranks run the shipping machine; else cheap ones, whose beats may be rare
    real_ranks: bool = True
    rank_beat_s: float = 1.0
    #: functions: sample.work, sample.work2 ...
    sockets: int = 1


class Cluster(World):
    """Everything that is alive, and what befalls it.

    Parameters
    ----------
    seed : int
    plan : Plan, optional
    limits : Limits, optional
        Tests make them small.
    story : Story, optional
    """

    #: tests replace them
    broker_class: type[BrokerHost] = BrokerHost
    client_class: type[ClientHost] = ClientHost
    rank_class: type[RankMachine] = RankMachine

    def __init__(
        self, seed: int = 0, plan: Plan | None = None, limits: Limits | None = None, story: Story | None = None
    ) -> None:
        super().__init__(seed, story)
        self.plan = plan or Plan()
        self.limits = limits or Limits()
        self.store = MemoryStore()
        self.audit = Audit(self.store)
        #: each message and each round is looked at; off for runs of millions of tasks
        self.audited = True
        self.disk = DiskWeather(commit_s=self.plan.commit_s)
        #: faults and what came of them, by kind
        self.faults: Counter[str] = Counter()
        self.net = Network(self, self.count)
        self.net.weather.latency_s = self.plan.latency_s
        mount = m.Mount(1, "r", "c", "sample", "e", "py", "w")
        names = ["work", "short", *(f"work{k}" for k in range(2, self.plan.sockets + 1))]
        self.sockets = [SocketSpec(k, f"sample.{name}", "sample", name, mount) for k, name in enumerate(names, 1)]
        self.broker: BrokerHost | None = None
        #: somebody who keeps a broker running
        self.when_broker_ends: Callable[[], None] = _nothing
        self.agents: dict[str, AgentHost] = {}
        self.clients: list[ClientHost] = []
        #: (job, index, attempt, grant) of every start of a task
        self.executed: list[tuple[int, int, int, int]] = []
        self._attempts: set[tuple[int, int, int]] = set()
        self.processes_made = 100
        #: rank-seconds of attempts that were cut off
        self.cut_s = 0.0
        self._brokers_made = 0
        self.start_broker()
        for number in range(self.plan.nodes):
            self.start_agent(f"n{number + 1}", f"{number + 1}" if self.plan.slurm else "")

    def count(self, what: str, number: int = 1) -> None:
        self.faults[what] += number

    def execute(self, job: int, index: int, attempt: int, grant: int) -> None:
        """A task starts. While nothing was lost, killed or cut an attempt starts once, whoever wants tasks back."""
        self.executed.append((job, index, attempt, grant))
        if not self.faults and self.audited:
            made = (job, index, attempt)
            expect(made not in self._attempts, f"attempt {attempt} starts again, and there was no fault", (job, index))
            self._attempts.add(made)

    # --- brokers --------------------------------------------------------------------------------------

    def start_broker(self, elsewhere: bool = False) -> BrokerHost:
        """Start one; BrokerHeld if another lives. It listens where the last one did, or on another machine."""
        self._brokers_made += 1
        skew = self.plan.skew_s * self.chance(f"clock {self._brokers_made}").random()
        broker = self.broker_class(self, f"b{self._brokers_made}", skew)
        if elsewhere:
            self.net.access = f"a{self._brokers_made}"
        self.broker = self.net.listeners[self.net.access] = broker
        return broker

    def kill_broker(self) -> None:
        assert self.broker is not None
        self.broker.kill()

    def broker_ended(self, broker: BrokerHost) -> None:
        for address, listener in list(self.net.listeners.items()):
            if listener is broker:
                del self.net.listeners[address]
        if self.broker is broker:
            self.broker = None
            self.when_broker_ends()

    # --- nodes ----------------------------------------------------------------------------------------

    def start_agent(self, name: str, allocation: str = "", ends_in_s: float = float("inf")) -> AgentHost:
        self.processes_made += 1
        agent = AgentHost(self, name, "1" if self.plan.one_world else allocation, ends_in_s)
        self.agents[agent.name] = agent
        return agent

    def start_allocation(self, name: str, number: str, walltime_s: float, drain_s: float, grace_s: float) -> AgentHost:
        """A node of an allocation that ends, and whose agent knows when."""
        agent = self.start_agent(name, number, walltime_s)
        self.after(walltime_s - drain_s, agent.tell, Signalled("drain"))
        self.after(walltime_s, agent.end_of_walltime, grace_s)
        return agent

    def agent_ended(self, agent: AgentHost) -> None:
        if self.agents.get(agent.name) is agent:
            del self.agents[agent.name]

    def kill_agent(self, name: str) -> None:
        self.agents[name].lose_node()

    def kill_rank(self, name: str, number: int) -> None:
        self.agents[name].kill_rank(number)

    def cut(self, name: str, seconds: float) -> None:
        """Nothing passes between an agent and the broker for so long; what was on the way is lost."""
        line = self.agents[name].line
        line.tear()
        line.close(seconds)

    def drain(self, name: str) -> None:
        self.agents[name].tell(Signalled("drain"))

    def walltime(self, name: str, warning_s: float, grace_s: float) -> None:
        """As Slurm ends an allocation: USR1, after the warning TERM, after the grace KILL."""
        agent = self.agents[name]
        self.drain(name)
        self.after(warning_s, agent.end_of_walltime, grace_s)

    # --- clients --------------------------------------------------------------------------------------

    def join(self, name: str = "c1") -> ClientHost:
        return self.client_class(self, name)

    @property
    def idle_ranks(self) -> int:
        """Ranks that could work and do not; those that rest after several deaths are not counted, nor those whose
        allocation ends."""
        found = 0
        for agent in self.agents.values():
            if agent.ends_in_s < float("inf"):
                continue
            resting = agent.machine._muster.resting
            found += sum(not rank.busy and number not in resting for number, rank in agent.ranks.items())
        return found


def _nothing() -> None:
    """Nobody looks after the broker."""
