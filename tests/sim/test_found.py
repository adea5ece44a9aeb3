"""Defects that random runs found, each as a short story that fails without its mending."""

from __future__ import annotations

from pyfi_hpc.core.broker import Broker
from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, ReadPayloads
from pyfi_hpc.model.events import PayloadsRead, Received, SocketSpec
from pyfi_hpc.model.ids import BatchId, CodeId, Epoch, GrantId, JobId, NodeName, Peer, SocketId
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.records import BatchAdmitted, JobOpened, OutcomeSettled
from pyfi_hpc.model.states import Cause, OnFailure
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster, Plan


def test_a_job_that_paused_between_batches_ends_after_a_restart() -> None:
    """All so far is final, the last batch never comes, the broker starts again: the job is closed all the same."""
    world = Cluster()
    client = world.join()
    client.submit_batches([["0.01"] * 3], [b""], last=False)
    world.run(lambda: len(client.results) == 3)
    world.run_for(0.1)
    client.kill()
    world.kill_broker()
    world.start_broker()
    world.run(lambda: any(batch.last for batch in world.store.batches.values()), 100.0)
    world.run_for(1.0)
    check(world)


def test_the_rest_of_a_range_counts_though_a_part_of_it_ended_elsewhere() -> None:
    """After a restart a node keeps its grant; one task of it was settled meanwhile, and it hands all of it back."""
    ledger = MemoryLedger()
    opened = JobOpened(JobId(1), bytes(16), "owner", "j", b"", OnFailure.FINISH, 0.0)
    batch = BatchAdmitted(
        BatchId(1), JobId(1), 0, 0, 4, True, SocketId(1), CodeId(1), 0, 0, 0.0, bytes(20), b"", b""
    )
    one = offsets_of([b""])
    ended = OutcomeSettled(
        BatchId(1), JobId(1), 1, 1, 1, Epoch(1), GrantId(8), NodeName("n2"), 0, b"\3", bytes(8), bytes(4), one, b""
    )
    ledger.restore([opened, batch, ended])
    spec = SocketSpec(1, "s", "p", "f", m.Mount(1, "r", "c", "s", "e", "py", "w"))
    broker = Broker(Limits(), ledger.take_over("test"), [spec], [], 0.0, 0.0)
    peer, out = Peer(b"n1"), Effects()

    def tell(message: m.Message, now: float) -> None:
        broker.handle(Received(peer, "agent", "owner", message), now, out)
        broker.advance(now, out)

    held = [m.Held(7, 1, 0, 4, 1, b"\1" * 4)]
    tell(m.Hello(PROTOCOL_VERSION, "agent", "n1", "x", 1, 1, "", held), 0.1)
    given_back = m.Outcome(
        7, 1, 0, 4, 1, -1, bytes([Cause.RELEASED]) * 4, bytes(32), bytes(16), offsets_of([b""] * 4), b""
    )
    tell(m.Finished([given_back]), 0.2)
    assert not broker.state.nodes.grants
    broker.handle(PayloadsRead([(BatchId(1), bytes(20), b"")]), 0.3, out)
    tell(m.Capacity(9, 9), 3.0)
    grants = [item for _, message in out.messages if isinstance(message, m.Grant) for item in message.items]
    assert sorted(item.first + k for item in grants for k in range(item.count)) == [0, 2, 3]


def test_an_agent_whose_last_rank_died_sleeps_until_it_starts_others() -> None:
    """It waits a moment in case others of the step follow; it must not ask to be woken at once meanwhile."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=2))
    world.run_for(2.0)
    agent = world.agents["n1"]
    for number in (0, 1):
        agent.kill_rank(number)
        world.run_for(0.1)
    before = world.steps
    world.run_for(0.19)
    assert world.steps - before < 20
    world.run_for(2.0)
    assert sorted(agent.ranks) == [0, 1]


def test_a_replacement_that_never_comes_holds_up_no_other() -> None:
    """One rank's replacement was asked for and died at its start; another rank dies: it is replaced at once."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=3))
    world.run_for(2.0)
    agent = world.agents["n1"]
    world.plan.rank_start_s = 1e9  # the replacement does not come
    agent.kill_rank(0)
    world.run_for(1.0)
    world.plan.rank_start_s = 0.5
    agent.kill_rank(1)
    world.run_for(1.0)
    assert 1 in agent.ranks


def test_payloads_that_are_being_read_are_not_asked_for_again() -> None:
    """The queue's payloads are in the ledger only: each is read once, however many rounds pass until it comes."""
    world = Cluster(limits=Limits(queued_payload_bytes_max=0))
    world.disk.commit_s = 0.2  # reads are slow too
    world.run_for(2.0)
    client = world.join()
    client.submit_batches([["0.001"] * 5] * 10, [b""] * 10)
    world.run(lambda: len(client.results) == 50)
    assert world.broker is not None
    read = [batch for query in world.broker.disk.read if isinstance(query, ReadPayloads) for batch in query.batches]
    assert sorted(read) == list(range(1, 11))
    world.run_for(2.0)
    check(world)


def test_a_draining_agent_sleeps_while_a_rank_does_not_answer() -> None:
    """A rank with a line hangs, others idle, the node drains: nothing is evened out, so nothing is waited for."""
    world = Cluster(plan=Plan(nodes=1, ranks_per_node=2))
    client = world.join()
    client.submit(["0.001"] * 50)
    world.run(lambda: len(client.results) == 50)
    client.submit(["0.03"] * 4)
    agent = world.agents["n1"]
    world.run(lambda: any(len(rank.flights) > 1 for rank in agent.machine._ranks.values()))
    hung = next(rank.number for rank in agent.machine._ranks.values() if len(rank.flights) > 1)
    agent.ranks[hung].freeze()
    world.run_for(0.2)
    world.drain("n1")
    before = world.steps
    world.run_for(2.0)
    assert world.steps - before < 100


def test_a_client_that_waits_to_send_again_sleeps_while_no_broker_answers() -> None:
    """A batch is to be sent again in a while, and the broker dies: when it is time there is nobody to send it to."""
    world = Cluster()
    client = world.join()
    world.run_for(1.0)
    submission = client.submit(["0.01"] * 3)
    client.hear([m.Refused(submission.key, 0, "busy", "the ledger is away", "", 8.0)])
    world.kill_broker()
    world.run_for(10.0)  # it has said hello again
    before = world.steps
    world.run_for(2.0)
    assert world.steps - before < 1000
