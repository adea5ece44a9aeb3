"""The broker's and the agent's machines in an imagined cluster: runs by seed, with faults."""

from __future__ import annotations

import random

import msgspec
import pytest

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.events import Signalled
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause, TaskState
from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.world import ClientHost, Plan, World


def settle(world: World, client: ClientHost, total: int) -> None:
    world.run(lambda: len(client.results) == total)
    world.run_for(1.0)
    check(world)


def test_a_map_is_run_and_settled_once() -> None:
    """2,000 short tasks on two nodes: each runs once, results arrive, nothing is left in memory."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["0.001"] * 2000)
    settle(world, client, 2000)
    assert len(world.executed) == 2000


def test_equal_nodes_share_equal_calls() -> None:
    """400 calls of 10 ms on two nodes of two ranks: about half each."""
    world = World()
    world.run_for(2.0)
    client = ClientHost.join(world)
    client.submit(["0.01"] * 400)
    settle(world, client, 400)
    nodes = [o.node for outcomes in world.store.outcomes.values() for o in outcomes.values() for _ in range(o.count)]
    assert 160 <= nodes.count("n1") <= 240


def test_dependencies_pass_results_on() -> None:
    """A chain: each task waits for the one before; a failure skips what follows."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["0.01"] * 20, msgspec.msgpack.encode([(k, 0, 0, k - 1) for k in range(1, 20)]))
    settle(world, client, 20)
    order = [index for _, index, _, _ in world.executed]
    assert order == list(range(20))
    key = client.submit(["?0.01"] + ["0.01"] * 4, msgspec.msgpack.encode([(k, 0, 0, k - 1) for k in range(1, 5)]))
    settle(world, client, 25)
    job = client.accepted[key, 0]
    assert [client.results[job, k][0] for k in range(5)] == [TaskState.FAILED] + [TaskState.SKIPPED] * 4


def test_dependency_on_a_job_that_has_ended() -> None:
    """The result of a task that was forgotten is read from the ledger."""
    world = World()
    client = ClientHost.join(world)
    key = client.submit(["0.01"])
    settle(world, client, 1)
    client.submit(["0.01"], msgspec.msgpack.encode([(0, 0, client.accepted[key, 0], 0)]))
    settle(world, client, 2)


def test_user_errors_are_retried_only_when_asked() -> None:
    """retries=2 makes three attempts, then FAILED; without it one."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["?"])
    client.submit(["?"], retries=2)
    settle(world, client, 2)
    assert sorted(len([e for e in world.executed if e[0] == job]) for job in (1, 2)) == [1, 3]


def test_a_poison_task_ends_after_three_deaths() -> None:
    """A task whose process dies each time is FAILED after the third attempt; others finish."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["!"] + ["0.01"] * 50)
    settle(world, client, 51)
    assert client.results[1, 0][0] == TaskState.FAILED
    assert b"died 3 times" in client.results[1, 0][1]
    assert [attempt for _, index, attempt, _ in world.executed if index == 0] == [1, 2, 3]


def test_cancel_ends_what_waits_and_what_runs() -> None:
    """A cancelled job settles at once; ranks are free for others."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["100"] * 50)
    world.run(lambda: len(world.executed) >= 4)
    client.send(m.Cancel(1, 1, 0, -1))
    world.run(lambda: len(client.results) == 50, 5.0)
    client.submit(["0.01"])
    settle(world, client, 51)


def test_a_cancelled_job_takes_no_more_work() -> None:
    """Batches that come after the whole job was cancelled are settled CANCELLED as they come."""
    world = World()
    client = ClientHost.join(world)
    client.submit_batches([["100"] * 3], [b""])
    key, message = next(iter(client._unacknowledged.items()))
    message.last = False
    world.run(lambda: len(world.executed) == 3)
    client.send(m.Cancel(1, 1, 0, -1))
    world.run(lambda: len(client.results) == 3, 5.0)
    client.send(m.Submit(key[0], 1, 3, 1, True, "sample.work", offsets_of([b"1"]), b"1"))
    settle(world, client, 4)
    assert len(world.executed) == 3


def test_a_job_whose_client_died_ends() -> None:
    """The last batch never comes: after a while an empty one closes the job, also across a restart."""
    for restart in (False, True):
        world = World()
        client = ClientHost.join(world)
        client.submit_batches([["0.5"] * 3], [b""])
        next(iter(client._unacknowledged.values())).last = False
        world.run_for(0.9)
        del world.clients[client.peer]
        if restart:
            world.kill_broker()
            world.start_broker()
        world.run_for(200.0)
        assert max(batch.last for batch in world.store.batches.values())
        check(world)


def test_large_arguments_do_not_pile_up_on_a_node() -> None:
    """A node is given no more than its share of bytes, however many tasks it would take."""
    world = World(limits=Limits(node_bytes_max=1000), plan=Plan(nodes=1))
    client = ClientHost.join(world)
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
    world = World(limits=Limits(queued_payload_bytes_max=2000))
    client = ClientHost.join(world)
    for _ in range(20):
        client.submit(["0.001"] * 100)
    settle(world, client, 2000)


def test_recall_gives_idle_nodes_work() -> None:
    """A node that joins late gets tasks that the first node had buffered."""
    world = World(plan=Plan(nodes=1))
    client = ClientHost.join(world)
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
    world = World()
    client = ClientHost.join(world)
    key = client.submit(["0.01"] * 10)
    message = client._unacknowledged[key, 0]
    client.send(message)
    settle(world, client, 10)
    client.send(message)
    world.run_for(0.1)
    world.kill_broker()
    world.start_broker()
    client.hello()
    message.resend = True
    client.send(message)
    world.run_for(1.0)
    assert len(world.store.jobs) == 1
    check(world)


def test_a_job_goes_on_though_all_of_it_so_far_was_forgotten() -> None:
    """A map between two batches when the broker restarts: the next batch is taken, though not sent again."""
    world = World()
    client = ClientHost.join(world)
    broker, world.broker = world.broker, None  # nothing arrives yet
    client.submit_batches([["0.01"] * 3, ["0.01"] * 2], [b"", b""])
    world.broker = broker
    first, second = client._unacknowledged.values()
    client.send(first)
    world.run(lambda: len(client.results) == 3)
    world.kill_broker()
    world.start_broker()
    client.hello()
    client.send(second)
    settle(world, client, 5)
    assert len(world.store.jobs) == 1


def test_broker_restart_restarts_no_running_task() -> None:
    """Agents say what they still run; the new broker adopts it."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["30"] * 4)
    world.run(lambda: len(world.executed) == 4)
    world.run_for(2.0)
    world.kill_broker()
    world.run_for(1.0)
    world.start_broker()
    client.reconnect()
    settle(world, client, 4)
    assert len(world.executed) == 4


def submit_structure(client: ClientHost, r: random.Random) -> int:
    """A job of several batches whose tasks depend on earlier ones of any batch; some fail."""
    batches, edges, first = [], [], 0
    for _ in range(r.randrange(1, 6)):
        count = r.randrange(1, 8)
        batches.append([r.choice(["0.001", "0.02", "?0.01"]) for _ in range(count)])
        links = [(k, 0, 0, r.randrange(first + k)) for k in range(count) if first + k and r.random() < 0.7]
        edges.append(msgspec.msgpack.encode(links) if links else b"")
        first += count
    client.submit_batches(batches, edges, on_failure=r.randrange(2))
    return first


def test_drain_finishes_what_runs_and_hands_back_the_rest() -> None:
    """USR1 to a node: no task is started there any more, none is started twice, and its agent ends."""
    world = World()
    client = ClientHost.join(world)
    client.submit(["0.001"] * 200 + ["1"] * 40)
    world.run(lambda: len(client.results) >= 210)
    agent = world.agents["n1"]
    begun = sum(len(rank._line) for rank in agent.ranks.values())
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
    world = World()
    client = ClientHost.join(world)
    client.submit(["0.0001"] * 500)
    world.run(lambda: len(client.results) == 500)
    client.submit((["20"] + ["0.0001"] * 30) * 4)
    world.run(lambda: any(len(rank._line) > 1 for rank in world.agents["n1"].ranks.values()))
    world.agents["n1"].tell(Signalled("drain"))
    world.run_for(0.05)
    assert not any(rank._line for rank in world.agents["n1"].ranks.values())
    settle(world, client, 624)
    assert len(world.executed) == 624


def test_walltime_is_charged_to_nobody() -> None:
    """TERM to the agent of an allocation: what ran makes one more attempt elsewhere, at most as often as it likes."""
    world = World(plan=Plan(nodes=0))
    agents = [world.start_agent("n1", "1")]
    client = ClientHost.join(world)
    client.submit(["5"] * 2 + ["0.01"] * 20)
    for number in range(2, 7):  # more often than a task may die
        world.run(lambda: any(rank._running for rank in agents[-1].ranks.values()))
        world.run_for(0.01)
        agents[-1].tell(Signalled("stop"))
        world.run(lambda: agents[-1].machine.stopped, 4.0)
        world.run_for(0.1)
        assert not world.broker or not world.broker.machine.state.nodes.by_name
        agents.append(world.start_agent(f"n{number}", str(number)))
    settle(world, client, 22)
    assert {state for state, _ in client.results.values()} == {TaskState.COMPLETED}
    assert {record.cause for found in world.store.attempts.values() for record in found} == {Cause.WALLTIME}


@pytest.mark.parametrize("seed", range(60))
def test_random_faults(seed: int) -> None:
    """Agents, ranks and brokers die, links are cut, while maps, chains and failing tasks run: all is settled once."""
    world = World(seed, Plan(nodes=3, ranks_per_node=3))
    client = ClientHost.join(world)
    r = world.random
    total = 0
    names = 3
    for _ in range(r.randrange(4, 16)):
        kind = r.randrange(9)
        if kind <= 2:
            count = r.randrange(1, 200)
            client.submit([r.choice(["0.001", "0.01", "0.3", "?0.01"]) for _ in range(count)], retries=r.randrange(2))
            total += count
        elif kind == 3:
            count = r.randrange(2, 30)
            edges = [(k, 0, 0, r.randrange(k)) for k in range(1, count)]
            client.submit(["0.01"] * count, msgspec.msgpack.encode(edges))
            total += count
        elif kind == 4:
            agent = world.agents[r.choice(list(world.agents))]
            if agent.ranks:
                agent.kill_rank(r.choice(list(agent.ranks)))
        elif kind == 5 and len(world.agents) > 1:
            world.kill_agent(r.choice(list(world.agents)))
            names += 1
            world.start_agent(f"n{names}")
        elif kind == 6:
            world.kill_broker()
            world.run_for(r.random() * 3)
            world.start_broker()
            client.reconnect()
        elif kind == 7:
            world.cut(r.choice(list(world.agents)), r.random() * 12)
        elif kind == 8:
            world.agents[r.choice(list(world.agents))].tell(Signalled(r.choice(["drain", "stop"])))
            names += 1
            world.start_agent(f"n{names}")
        elif kind == 8:
            total += submit_structure(client, r)
        world.run_for(r.random() * 2)
    client.reconnect()
    try:
        world.run(lambda: len(client.results) == total and not client._unacknowledged, 900.0)
    except TimeoutError:
        check(world)
        raise
    world.run_for(30.0)
    check(world)
