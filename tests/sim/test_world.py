"""The broker's and the agent's machines in an imagined cluster: its stories."""

from __future__ import annotations

import msgspec

from pyfi_hpc.client.sinks import Submission
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.events import Signalled
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.states import Cause, TaskState
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan


def submit_of(sent: Submission) -> m.Submit:
    """The first batch as it travels."""
    return sent.unacked[0].message


def settle(world: Cluster, client: ClientHost, total: int) -> None:
    world.run(lambda: len(client.results) == total)
    world.run_for(1.0)
    check(world)


def test_a_map_is_run_and_settled_once() -> None:
    """2,000 short tasks on two nodes: each runs once, results arrive, nothing is left in memory."""
    world = Cluster()
    client = world.join()
    client.submit(["0.001"] * 2000)
    settle(world, client, 2000)
    assert len(world.executed) == 2000


def test_equal_nodes_share_equal_calls() -> None:
    """400 calls of 10 ms on two nodes of two ranks: about half each."""
    world = Cluster()
    world.run_for(2.0)
    client = world.join()
    client.submit(["0.01"] * 400)
    settle(world, client, 400)
    nodes = [o.node for outcomes in world.store.outcomes.values() for o in outcomes.values() for _ in range(o.count)]
    assert 160 <= nodes.count("n1") <= 240


def test_dependencies_pass_results_on() -> None:
    """A chain: each task waits for the one before; a failure skips what follows."""
    world = Cluster()
    client = world.join()
    client.submit(["0.01"] * 20, msgspec.msgpack.encode([(k, 0, 0, k - 1) for k in range(1, 20)]))
    settle(world, client, 20)
    order = [index for _, index, _, _ in world.executed]
    assert order == list(range(20))
    sent = client.submit(["?0.01"] + ["0.01"] * 4, msgspec.msgpack.encode([(k, 0, 0, k - 1) for k in range(1, 5)]))
    settle(world, client, 25)
    job = client.accepted[sent.key, 0]
    assert [client.results[job, k][0] for k in range(5)] == [TaskState.FAILED] + [TaskState.SKIPPED] * 4


def test_dependency_on_a_job_that_has_ended() -> None:
    """The result of a task that was forgotten is read from the ledger."""
    world = Cluster()
    client = world.join()
    sent = client.submit(["0.01"])
    settle(world, client, 1)
    client.submit(["0.01"], msgspec.msgpack.encode([(0, 0, client.accepted[sent.key, 0], 0)]))
    settle(world, client, 2)


def test_user_errors_are_retried_only_when_asked() -> None:
    """retries=2 makes three attempts, then FAILED; without it one."""
    world = Cluster()
    client = world.join()
    client.submit(["?"])
    client.submit(["?"], retries=2)
    settle(world, client, 2)
    assert sorted(len([e for e in world.executed if e[0] == job]) for job in (1, 2)) == [1, 3]


def test_a_poison_task_ends_after_three_deaths() -> None:
    """A task whose process dies each time is FAILED after the third attempt; others finish."""
    world = Cluster()
    client = world.join()
    client.submit(["!"] + ["0.01"] * 50)
    settle(world, client, 51)
    assert client.results[1, 0][0] == TaskState.FAILED
    assert b"died 3 times" in client.results[1, 0][1]
    assert [attempt for _, index, attempt, _ in world.executed if index == 0] == [1, 2, 3]


def test_cancel_ends_what_waits_and_what_runs() -> None:
    """A cancelled job settles at once; ranks are free for others."""
    world = Cluster()
    client = world.join()
    client.submit(["100"] * 50)
    world.run(lambda: len(world.executed) >= 4)
    client.cancel(1)
    world.run(lambda: len(client.results) == 50, 5.0)
    client.submit(["0.01"])
    settle(world, client, 51)


def test_a_cancelled_job_takes_no_more_work() -> None:
    """Batches that come after the whole job was cancelled are settled CANCELLED as they come."""
    world = Cluster()
    client = world.join()
    sent = client.submit_batches([["100"] * 3], [b""], last=False)
    world.run(lambda: len(world.executed) == 3)
    client.cancel(1)
    world.run(lambda: len(client.results) == 3, 5.0)
    client.send_batch(sent, ["1"])
    settle(world, client, 4)
    assert len(world.executed) == 3


def test_a_job_whose_client_died_ends() -> None:
    """The last batch never comes: after a while an empty one closes the job, also across a restart."""
    for restart in (False, True):
        world = Cluster()
        client = world.join()
        client.submit_batches([["0.5"] * 3], [b""], last=False)
        world.run_for(1.2)
        client.kill()
        if restart:
            world.kill_broker()
            world.start_broker()
        world.run_for(200.0)
        assert max(batch.last for batch in world.store.batches.values())
        check(world)


def test_large_arguments_do_not_pile_up_on_a_node() -> None:
    """A node is given no more than its share of bytes, however many tasks it would take."""
    world = Cluster(limits=Limits(node_bytes_max=1000), plan=Plan(nodes=1))
    client = world.join()
    client.submit(["0.001"] * 50)
    world.run(lambda: len(client.results) == 50)
    client.submit(["0.001" + " " * 400] * 60)
    assert world.broker is not None
    nodes = world.broker.machine.state.nodes.by_name
    while len(client.results) < 110:
        world.run_for(0.002)
        assert all(node.outstanding_bytes <= 1000 + 405 for node in nodes.values())
    settle(world, client, 110)
    assert all(node.outstanding_bytes == 0 for node in nodes.values())


def test_payloads_beyond_the_limit_stay_in_the_ledger() -> None:
    """With a tiny payload memory everything still runs, and memory stays under the limit."""
    world = Cluster(limits=Limits(queued_payload_bytes_max=2000))
    client = world.join()
    for _ in range(20):
        client.submit(["0.001"] * 100)
    settle(world, client, 2000)


def test_recall_gives_idle_nodes_work() -> None:
    """A node that joins late gets tasks that the first node had buffered."""
    world = Cluster(plan=Plan(nodes=1))
    client = world.join()
    client.submit(["0.004"] * 100)
    world.run(lambda: len(client.results) == 100)
    client.submit(["5"] * 4)
    world.run(lambda: len(world.executed) >= 102)
    world.start_agent("n2")
    started = world.now
    settle(world, client, 104)
    assert world.now - started < 9.0


def test_resubmission_creates_nothing_twice() -> None:
    """The same key and number again, before and after the job ended and after a restart: one job."""
    world = Cluster()
    client = world.join()
    message = submit_of(client.submit(["0.01"] * 10))
    client.line.send([message])
    settle(world, client, 10)
    client.line.send([message])
    world.run_for(0.1)
    world.kill_broker()
    world.start_broker()
    client.attach(1)
    message.resend = True
    world.run(lambda: client.satisfied)
    client.line.send([message])
    world.run_for(1.0)
    assert len(world.store.jobs) == 1
    check(world)


def test_a_job_goes_on_though_all_of_it_so_far_was_forgotten() -> None:
    """A map between two batches when the broker restarts: the next batch is taken, though not sent again."""
    world = Cluster()
    client = world.join()
    sent = client.submit_batches([["0.01"] * 3], [b""], last=False)
    world.run(lambda: len(client.results) == 3)
    world.run_for(0.1)
    world.kill_broker()
    world.start_broker()
    client.send_batch(sent, ["0.01"] * 2)
    settle(world, client, 5)
    assert len(world.store.jobs) == 1


def test_broker_restart_restarts_no_running_task() -> None:
    """Agents say what they still run; the new broker adopts it."""
    world = Cluster()
    client = world.join()
    client.submit(["30"] * 4)
    world.run(lambda: len(world.executed) == 4)
    world.run_for(2.0)
    world.kill_broker()
    world.run_for(1.0)
    world.start_broker()
    settle(world, client, 4)
    assert len(world.executed) == 4


def test_drain_finishes_what_runs_and_hands_back_the_rest() -> None:
    """USR1 to a node: no task is started there any more, none is started twice, and its agent ends."""
    world = Cluster()
    client = world.join()
    client.submit(["0.001"] * 200 + ["1"] * 40)
    world.run(lambda: len(client.results) >= 210)
    agent = world.agents["n1"]
    begun = sum(rank.held for rank in agent.ranks.values())
    agent.tell(Signalled("drain"))
    world.run(lambda: agent.machine.stopped, 5.0)
    assert not agent.ranks, begun
    started = len([e for e in world.executed if e[1] >= 200])
    settle(world, client, 240)
    assert started < 40
    assert len(world.executed) == 240
    assert not world.store.attempts


def test_drain_hands_back_what_a_rank_has_in_line() -> None:
    """A rank has short tasks in line behind a long one when USR1 comes: they run on the other node meanwhile."""
    world = Cluster()
    client = world.join()
    client.submit(["0.0001"] * 500)
    world.run(lambda: len(client.results) == 500)
    client.submit((["20"] + ["0.0001"] * 30) * 4)
    world.run(lambda: any(rank.held > 1 for rank in world.agents["n1"].ranks.values()))
    world.agents["n1"].tell(Signalled("drain"))
    world.run_for(0.05)
    assert not any(rank.held > rank.busy for rank in world.agents["n1"].ranks.values())
    settle(world, client, 624)
    assert len(world.executed) == 624


def test_walltime_is_charged_to_nobody() -> None:
    """TERM to the agent of an allocation: what ran makes one more attempt elsewhere, at most as often as it likes."""
    world = Cluster(plan=Plan(nodes=0))
    agents = [world.start_agent("n1", "1")]
    client = world.join()
    client.submit(["5"] * 2 + ["0.01"] * 20)
    for number in range(2, 7):  # more often than a task may die
        world.run(lambda: any(rank.busy for rank in agents[-1].ranks.values()))
        world.run_for(0.01)
        agents[-1].tell(Signalled("stop"))
        world.run(lambda: agents[-1].machine.stopped, 4.0)
        world.run_for(0.1)
        assert not world.broker or not world.broker.machine.state.nodes.by_name
        agents.append(world.start_agent(f"n{number}", str(number)))
    settle(world, client, 22)
    assert {state for state, _ in client.results.values()} == {TaskState.COMPLETED}
    assert {record.cause for found in world.store.attempts.values() for record in found} == {Cause.WALLTIME}


def test_nodes_move_from_a_broker_that_was_replaced_while_it_was_idle() -> None:
    """Its session with the ledger went unnoticed and another broker took over: it ends, its nodes find the other."""
    world = Cluster()
    world.run_for(3.0)
    first = world.broker
    assert first is not None
    first.disk.lose_session()
    second = world.start_broker(elsewhere=True)
    world.run(lambda: len(second.machine.state.nodes.by_name) == 2, 10.0)
    assert first.dead
    client = world.join()
    client.submit(["0.01"] * 10)
    settle(world, client, 10)
