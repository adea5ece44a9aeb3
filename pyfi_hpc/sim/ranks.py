"""Ranks: the shipping rank machine with an imagined runner, and for a hundred thousand of them a cheap one."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyfi_hpc.core.rank import AGENT
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, GivePermits, KillRunner, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, Received, RunnerExited, Signalled, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.packed import offsets_of, pick
from pyfi_hpc.model.states import Cause
from pyfi_hpc.sim.hosts import Host
from pyfi_hpc.sim.runners import IPC_S, SIGKILL, SIGTERM, Runner, result_of, work_of
from pyfi_hpc.wire import codec

if TYPE_CHECKING:
    import random

    from pyfi_hpc.sim.agents import AgentHost
    from pyfi_hpc.sim.cluster import Cluster


class RankHost(Host):
    """A rank's process."""

    def __init__(self, agent: AgentHost, number: int, world: str = "") -> None:
        cluster = agent.cluster
        cluster.processes_made += 1
        self.pid = cluster.processes_made
        super().__init__(agent.world, f"{agent.name}.r{number}", agent.skew)
        self.agent = agent
        self.cluster: Cluster = cluster
        self.number = number
        self.peer = Peer(f"r{self.pid}".encode())
        self.machine = cluster.rank_class(cluster.limits, number, 1, self.pid, -1, world_id=world)
        #: its MPI process has not ended
        self.in_world = bool(world)
        self.chance: random.Random = cluster.chance(f"rank {self.pid}")
        self.runners: dict[int, Runner] = {}

    @property
    def busy(self) -> bool:
        return any(runner.busy for runner in self.runners.values())

    @property
    def held(self) -> int:
        """Tasks that it has and has not answered for."""
        return sum(work.bundle.count - work.next - len(work.told) for work in self.machine._work)

    def line_down(self, messages: Sequence[Any]) -> None:
        events = [Received(AGENT, "agent", "", message) for message in messages]
        self.world.after(IPC_S, self.tell, *events)

    def carry_out(self, out: Effects) -> None:
        messages = [message for _, message in out.at_once + out.messages]
        if messages:
            self._send(messages)
        for action in out.actions:
            self._do(action)

    def _send(self, messages: list[Any]) -> None:
        agent = self.agent
        if agent.dead:
            self.world.at(self.world.now, self.tell, Unreachable(AGENT))
            return
        if self.world.story is not None:
            for message in messages:
                self.world.tell(f"{self.name} -> {agent.name}", "", message)
        messages = codec.decode(codec.encode(messages), codec.FROM_RANK)
        self.world.after(IPC_S, agent.tell, *[Received(self.peer, "rank", "", message) for message in messages])

    def _do(self, action: Any) -> None:
        if isinstance(action, StartRunner):
            if action.mpi and not self.in_world:
                gone = RunnerExited(action.runner, 127, "this rank has left its MPI world")
                self.world.after(IPC_S, self.tell, gone)
                return
            self.runners[action.runner] = Runner(self, action.runner, action.mpi)
            self.in_world = self.in_world and not action.mpi
            return
        runner = self.runners.get(action.runner)
        if runner is None:
            return
        if isinstance(action, WriteRunner):
            runner.write(action.frame, action.permits)
        elif isinstance(action, TakePermits):
            self.world.after(IPC_S, self.tell, PermitsTaken(action.runner, runner.take_permits()))
        elif isinstance(action, GivePermits):
            runner.write(None, action.count)
        elif isinstance(action, KillRunner):
            runner.signal(SIGKILL if action.hard else SIGTERM)

    def agent_gone(self) -> None:
        """Its socket is closed: the next message finds nobody."""

    def terminate(self) -> None:
        """SIGTERM to this process and its runners, as Slurm sends it."""
        self.tell(Signalled("stop"))
        for runner in list(self.runners.values()):
            runner.signal(SIGTERM)

    def ended(self) -> None:
        for runner in list(self.runners.values()):
            runner.dead = True
        self.runners.clear()
        self.agent.rank_ended(self)


class ImaginedRank:
    """A rank without machine and runner: for runs with so many of them that only broker and agents are looked at."""

    def __init__(self, agent: AgentHost, number: int, world: str = "") -> None:
        self.agent = agent
        self.cluster = agent.cluster
        self.cluster.processes_made += 1
        self.pid = self.cluster.processes_made
        self.name = f"{agent.name}.r{number}"
        self.number = number
        #: it runs its part of a gang for as long as the task takes
        self.mpi_world = world
        self.peer = Peer(f"r{self.pid}".encode())
        self.dead = False
        self._line: deque[tuple[m.Bundle, int]] = deque()
        self._running: tuple[m.Bundle, int] | None = None
        self._heard = 0.0
        self._began = 0.0

    @property
    def busy(self) -> bool:
        return self._running is not None

    @property
    def held(self) -> int:
        return len(self._line) + self.busy

    def begin(self) -> None:
        self._say(m.RankReady(self.number, 1, self.pid, -1, self.mpi_world))
        self._beat()

    def line_down(self, messages: Sequence[Any]) -> None:
        for message in messages:
            if isinstance(message, m.Bundle):
                self._line.extend((message, message.lo + k) for k in range(message.count))
                self._next()
            elif isinstance(message, m.Kill):
                self._kill(message)
            elif isinstance(message, m.Stop):
                self.kill()

    def terminate(self) -> None:
        pass  # a rank leaves it to its agent

    def agent_gone(self) -> None:
        self.kill()

    def kill(self) -> None:
        if not self.dead:
            self.dead = True
            if self._running is not None:
                self.agent.cut(self.cluster.now - self._began)
            self.agent.rank_ended(self)

    def freeze(self) -> None:
        pass

    def thaw(self) -> None:
        pass

    def _say(self, message: Any) -> None:
        self.agent.tell(Received(self.peer, "rank", "", message))

    def _beat(self) -> None:
        if not self.dead and not self.agent.dead:
            self._say(m.RankBeat(0))
            self.cluster.after(self.cluster.plan.rank_beat_s, self._beat)

    def _next(self) -> None:
        if self._running is not None or not self._line or self.dead:
            return
        bundle, offset = self._running = self._line.popleft()
        index = bundle.first + offset - bundle.lo
        work = work_of(pick(bundle.offsets, bundle.payload, offset - bundle.lo), bundle.attempt, bundle.state)
        left_s = bundle.ends_at - self.agent.now if bundle.ends_at else float("inf")
        leg_s, state = work.leg(left_s)
        self._began = self.cluster.now
        self.cluster.execute(bundle.job, index, bundle.attempt, bundle.grant)
        cause = Cause.CRASH if work.crashes else Cause.ERROR if work.raises else Cause.NONE
        if state and not cause:
            cause = Cause.CONTINUED
        self.cluster.after(leg_s, self._finish, self._running, cause, leg_s, state)

    def _finish(self, mark: tuple[m.Bundle, int], cause: Cause, seconds: float, state: bytes) -> None:
        if not self.dead and not self.agent.dead and self._running is mark:
            self._running = None
            self._done(*mark, cause, seconds, state)
            self._next()

    def _done(self, bundle: m.Bundle, offset: int, cause: Cause, seconds: float = 0.0, state: bytes = b"") -> None:
        at = offset - bundle.lo
        inputs = bundle.inputs[at] if bundle.inputs else ()
        result = state or result_of(bundle.job, bundle.first + at, bundle.grant, inputs)
        outcome = m.Outcome(
            bundle.grant, bundle.batch, offset, 1, bundle.attempt, self.number, bytes([cause]), bytes(8),
            array("f", [seconds]).tobytes(), offsets_of([result]), result,
        )  # fmt: skip
        self._say(m.Done(bundle.bundle, outcome))

    def _kill(self, kill: m.Kill) -> None:
        """The tasks that it names end with its cause; order within the bundle is kept."""
        end = 1 << 62 if kill.count < 0 else kill.lo + kill.count
        hit = [(b, o) for b, o in self._line if b.bundle == kill.bundle and kill.lo <= o < end]
        self._line = deque(entry for entry in self._line if entry not in hit)
        running = self._running
        is_named = running is not None and running[0].bundle == kill.bundle and kill.lo <= running[1] < end
        if running is not None and is_named and kill.cause != Cause.RELEASED:
            hit.insert(0, running)
            self._running = None
        for bundle, offset in reversed(hit) if kill.cause == Cause.RELEASED else hit:
            self._done(bundle, offset, Cause(kill.cause))
        self._next()
