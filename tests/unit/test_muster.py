"""Ranks that fall, in the pure agent and in virtual time: which rest, how long, and that innocent ones do not."""

from __future__ import annotations

from pyfi_hpc.core.agent import BROKER, Agent
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, ReplaceRank, StartRanks
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Received
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause

LIMITS = Limits(lease_s=1e9, quarantine_s=60.0, quarantine_s_max=200.0)


class LoneAgent:
    """An agent with two ranks; its broker and its ranks are words of the test."""

    def __init__(self, ranks: int = 2) -> None:
        self.now = 0.0
        self.sent: list[tuple[Peer, m.Message]] = []
        self.actions: list[object] = []
        self.machine = Agent(LIMITS, "n1", "i", "", ranks, ranks, True, 0.0)
        self.pids: dict[int, int] = {}
        self._pid = 100
        self._grant = 0
        self.advance()
        for rank in range(ranks):
            self.start(rank)
        self.hear(BROKER, m.Welcome(1, 1, 1 << 20, 1.0, 5.0))
        self.hear(BROKER, m.Mount(1, "r", "c", "sample", "e", "py", "w"))
        self.tell(CodeChecked(1, ""))

    def tell(self, event: object) -> None:
        out = Effects()
        self.machine.handle(event, self.now, out)
        self.advance(out)

    def advance(self, out: Effects | None = None) -> None:
        out = out or Effects()
        self.machine.advance(self.now, out)
        self.sent += out.messages + out.at_once
        self.actions += out.actions

    def wait(self, seconds: float) -> None:
        """Time passes; ranks beat."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            for rank in self.pids:
                self.hear(Peer(b"r%d" % rank), m.RankBeat(1))
            self.advance()

    def hear(self, peer: Peer, message: m.Message) -> None:
        self.tell(Received(peer, "broker" if peer == BROKER else "rank", "", message))

    def start(self, rank: int) -> None:
        self._pid += 1
        self.pids[rank] = self._pid
        self.hear(Peer(b"r%d" % rank), m.RankReady(rank, 2, self._pid, rank))

    def grant(self, batch: int, attempt: int = 1, count: int = 1) -> None:
        """Task 0 of the batch, and those that follow."""
        self._grant += 1
        payload = offsets_of([b"x"] * count), b"x" * count
        item = m.Item(self._grant, batch, 1, 0, 0, count, attempt, 1, "work", 0.0, *payload)
        self.hear(BROKER, m.Grant(1, [item]))

    def kill_for_good(self, rank: int) -> None:
        """The process of a rank ends."""
        self.tell(ProcessExited(self.pids.pop(rank), "signal 9"))

    def kill(self, rank: int) -> None:
        """The process of a rank ends, and a new one comes if one is asked for."""
        self.tell(ProcessExited(self.pids.pop(rank), "signal 9"))
        before = len(self.actions)
        self.wait(1.0)
        if ReplaceRank(rank, rank) in self.actions[before:]:
            self.start(rank)

    def who_runs(self, batch: int) -> int:
        """The rank that got the last bundle of a batch."""
        for peer, message in reversed(self.sent):
            if isinstance(message, m.Bundle) and message.batch == batch:
                return int(peer[1:])
        raise AssertionError(f"nobody got batch {batch}")

    def done(self, batch: int, cause: Cause = Cause.NONE) -> None:
        for peer, message in reversed(self.sent):
            if isinstance(message, m.Bundle) and message.batch == batch:
                outcome = m.Outcome(
                    message.grant, batch, message.lo, 1, message.attempt, int(peer[1:]), bytes([cause]), bytes(8),
                    bytes(4), offsets_of([b""]), b"",
                )  # fmt: skip
                self.hear(peer, m.Done(message.bundle, outcome))
                return

    @property
    def capacity(self) -> m.Capacity:
        return next(message for _, message in reversed(self.sent) if isinstance(message, m.Capacity))


def test_a_rank_that_dies_three_times_rests_and_is_not_replaced() -> None:
    """The agent tells why and how long; after a minute it is started again, and rests twice as long next time."""
    agent = LoneAgent()
    for fall in range(3):
        assert agent.capacity.resting == [], fall
        agent.kill(0)
    assert 0 not in agent.pids and agent.capacity.rank_count == 1
    ((number, seconds, why),) = agent.capacity.resting
    assert number == 0 and 58.0 < seconds <= 60.0
    assert why == "its process ended again and again; the last time: rank 0 died: signal 9"
    agent.actions.clear()
    agent.wait(57.0)
    assert agent.actions.count(ReplaceRank(0, 0)) == 0
    agent.wait(3.0)
    assert agent.actions.count(ReplaceRank(0, 0)) == 1 and agent.capacity.resting == []
    agent.start(0)
    assert agent.capacity.rank_count == 2
    agent.kill(0)
    assert 118.0 < agent.capacity.resting[0][1] <= 120.0


def test_a_completed_task_makes_up_for_earlier_falls() -> None:
    """Two falls, a task, two falls: the rank is replaced each time."""
    agent = LoneAgent(1)
    for batch in (1, 2):
        for _ in range(2):
            agent.tell(ProcessExited(agent.pids.pop(0), "signal 9"))
            agent.wait(1.0)
            agent.start(0)
        agent.grant(batch)
        agent.done(batch)
    assert agent.capacity.resting == []


def test_a_task_that_kills_rank_after_rank_lets_none_rest() -> None:
    """Each of four tasks kills first one rank and then the other: they speak against themselves."""
    agent = LoneAgent()
    for batch in range(1, 5):
        killed = []
        for attempt in (1, 2):
            agent.grant(batch, attempt)
            killed.append(agent.who_runs(batch))
            agent.kill(killed[-1])
        assert sorted(killed) == [0, 1], "the second attempt goes to another rank"
    assert agent.capacity.resting == [] and agent.capacity.rank_count == 2


def test_ranks_that_die_together_are_one_fall() -> None:
    """An MPI step that dies as a whole, three times: only the rank that was first is to blame."""
    agent = LoneAgent()
    for _ in range(3):
        for rank in (0, 1):
            agent.tell(ProcessExited(agent.pids.pop(rank), "signal 9"))
        agent.wait(1.0)
        agent.start(0)
        agent.start(1)
    assert [number for number, _, _ in agent.capacity.resting] == [0]


def test_a_step_that_never_starts_is_tried_less_and_less_often() -> None:
    """Three starts two seconds apart, then after one minute, then after two: told as the start of ranks."""
    agent = LoneAgent(0)
    agent.machine._muster._rank_count = 2
    starts = []
    for _ in range(1400):
        before = agent.actions.count(StartRanks(2))
        agent.wait(0.5)
        if agent.actions.count(StartRanks(2)) > before:
            starts.append(agent.now)
            agent.tell(ProcessExited(0, "no mpiexec"))
    gaps = [round(b - a) for a, b in zip(starts, starts[1:], strict=False)]
    assert gaps == [2, 2, 60, 120, 200, 200]
    assert agent.capacity.resting[0][0] == -1
    assert agent.capacity.resting[0][2] == "its ranks do not start: no mpiexec"


def test_a_rank_that_the_broker_lets_rest_gets_nothing_until_it_may_work_again() -> None:
    """What it has not started is asked back; the other rank gets all; Rest with 0 seconds lifts it at once."""
    agent = LoneAgent()
    agent.hear(BROKER, m.Rest(0, 60.0, "3 tasks failed there"))
    assert agent.capacity.rank_count == 1 and agent.capacity.resting == [(0, 60.0, "3 tasks failed there")]
    for batch in (1, 2, 3):
        agent.grant(batch)
        assert agent.who_runs(batch) == 1
        agent.done(batch)
    agent.hear(BROKER, m.Rest(0, 0.0, "released"))
    assert agent.capacity.rank_count == 2 and agent.capacity.resting == []
    agent.grant(4)
    agent.grant(5)
    assert {agent.who_runs(4), agent.who_runs(5)} == {0, 1}


def test_a_rank_whose_process_does_not_start_rests() -> None:
    """It dies once, and two processes that should replace it end before they are there: the third fall."""
    agent = LoneAgent()
    agent.kill_for_good(0)
    for fall in (2, 3):
        assert agent.capacity.resting == [], fall
        agent.wait(3.0)
        assert agent.actions.count(ReplaceRank(0, 0)) == fall - 1
        agent.tell(ProcessExited(900 + fall, "exit code 1", 0))
    ((number, _, why),) = agent.capacity.resting
    assert (number, why) == (0, "its process does not start: exit code 1")
    agent.wait(58.0)
    assert agent.actions.count(ReplaceRank(0, 0)) == 2
    agent.wait(4.0)
    assert agent.actions.count(ReplaceRank(0, 0)) == 3
    # where the node has no process number to give, nobody is to blame
    other = LoneAgent()
    other.kill_for_good(0)
    for _ in range(5):
        other.wait(3.0)
        other.tell(ProcessExited(0, "no process left", 0))
    assert other.capacity.resting == [] and other.actions.count(ReplaceRank(0, 0)) == 5


def test_when_all_ranks_rest_tasks_go_back_to_the_broker() -> None:
    """Nobody here would run them soon: they are RELEASED, no attempt was made."""
    agent = LoneAgent(1)
    agent.grant(1)
    agent.grant(2)
    agent.hear(BROKER, m.Rest(0, 60.0, "broken"))
    released = [
        outcome.batch
        for _, message in agent.sent
        if isinstance(message, m.Finished)
        for outcome in message.outcomes
        if outcome.causes == bytes([Cause.RELEASED])
    ]
    assert released == [2], "the first one runs"
    assert agent.capacity.tasks == 0
    agent.grant(3)
    last = [message for _, message in agent.sent if isinstance(message, m.Finished)][-1]
    assert [(o.batch, o.causes) for o in last.outcomes] == [(3, bytes([Cause.RELEASED]))]


def test_a_node_that_has_prepared_its_own_code_runs_that() -> None:
    """Where Python and the code lie is told to the ranks as the node says, not as the mount does."""
    node = LoneAgent()
    node.hear(BROKER, m.Mount(2, "r", "c", "sample", "e", "py", "w"))
    node.tell(CodeChecked(2, "", "/own/python", "/own/code"))
    item = m.Item(50, 9, 1, 0, 0, 1, 1, 2, "work", 0.0, offsets_of([b"x"]), b"x")
    node.hear(BROKER, m.Grant(1, [item]))
    bundle = next(message for _, message in reversed(node.sent) if isinstance(message, m.Bundle))
    assert (bundle.python, bundle.workdir, bundle.module) == ("/own/python", "/own/code", "sample")
