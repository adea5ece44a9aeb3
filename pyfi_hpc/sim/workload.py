"""What imagined clients ask for: maps, chains, fans, structures of several batches, failing tasks, cancels."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pyfi_hpc.model import terms
from pyfi_hpc.sim.client import ClientHost

if TYPE_CHECKING:
    from pyfi_hpc.sim.cluster import Cluster

#: what most tasks take, seconds; a few are long
_SHORT = ("0.001", "0.001", "0.01", "0.02", "0.1")
_LONG = ("0.3", "0.5", "1", "2", "4")
_BAD = ("?0.01", "@?0.01", "!0.005", "@!0.005", "?0.2", "^0.5")

Edge = tuple[int, int, int, int]


def payload(chance: random.Random) -> str:
    draw = chance.random()
    return chance.choice(_SHORT if draw < 0.72 else _LONG if draw < 0.94 else _BAD)


def _links(edges: list[Edge]) -> bytes:
    return msgspec.msgpack.encode(edges) if edges else b""


def a_map(client: ClientHost, chance: random.Random) -> None:
    """Equal calls in one to four batches."""
    each = chance.choice(_SHORT) if chance.random() < 0.5 else ""
    batches = [[each or payload(chance) for _ in range(chance.randrange(1, 60))] for _ in range(chance.randrange(1, 5))]
    late, retries, priority = chance.choice([0.0, 0.0, 0.3]), chance.randrange(3), chance.randrange(-1, 2)
    draw = chance.random()
    at_once = chance.randrange(1, 6) if draw > 0.8 else 0
    client.submit_batches(
        batches, [b""] * len(batches), late, retries=retries, priority=priority,
        on_failure=int(draw < 0.1), at_once=at_once, preemptible=draw < 0.4,
        project=chance.choice(("", "bio", "art")),
    )  # fmt: skip


def an_uneven_map(client: ClientHost, chance: random.Random) -> None:
    """Short calls, and among more of them some that take longer: ranks that are idle want what waits behind those."""
    short, longer = ["0.0002"] * 400, ("0.006", "0.012", "0.03")
    mixed = [chance.choice(longer) if chance.random() < 0.2 else "0.0002" for _ in range(200)]
    client.submit_batches([short, *(mixed[k : k + 40] for k in range(0, 200, 40))], [b""] * 6, 0.3)


def a_chain(client: ClientHost, chance: random.Random) -> None:
    count = chance.randrange(2, 12)
    edges = [(k, 0, 0, k - 1) for k in range(1, count)]
    client.submit([payload(chance) for _ in range(count)], _links(edges), retries=chance.randrange(2))


def a_fan(client: ClientHost, chance: random.Random) -> None:
    """One task, many that take its result, one that takes all of theirs."""
    width = chance.randrange(2, 12)
    edges = [(k, 0, 0, 0) for k in range(1, width + 1)] + [(width + 1, k, 0, k + 1) for k in range(width)]
    client.submit([payload(chance) for _ in range(width + 2)], _links(edges), on_failure=chance.randrange(2))


def a_structure(client: ClientHost, chance: random.Random) -> None:
    """Several batches whose tasks take results of earlier ones of any batch; some fail."""
    batches: list[list[str]] = []
    edges: list[bytes] = []
    first = 0
    for _ in range(chance.randrange(1, 6)):
        count = chance.randrange(1, 8)
        batches.append([payload(chance) for _ in range(count)])
        links = []
        for k in range(count):
            producers = chance.sample(range(first + k), min(first + k, chance.randrange(3)))
            links += [(k, slot, 0, producer) for slot, producer in enumerate(producers)]
        edges.append(_links(links))
        first += count
    client.submit_batches(batches, edges, chance.choice([0.0, 0.2]), on_failure=chance.randrange(2))


def a_limit(client: ClientHost, chance: random.Random) -> None:
    """Tasks with a time limit: some keep it, some do not, some ignore the signal."""
    payloads = [chance.choice(["0.01", "0.1", "3", "^3"]) for _ in range(chance.randrange(1, 8))]
    client.submit(payloads, time_limit_s=chance.choice([0.2, 0.5]), retries=chance.randrange(2))


def a_loop(client: ClientHost, chance: random.Random) -> None:
    """Tasks that return Continue where their node ends before they are done; some say how large they are."""
    payloads = [f">{chance.choice(_SHORT + _LONG + ('6',))}" for _ in range(chance.randrange(1, 8))]
    client.submit(payloads, size=chance.choice([0.0, 1.0, 30.0]))


def a_follower(client: ClientHost, chance: random.Random) -> None:
    """Takes results of a job that may have ended long ago, of this client or of another."""
    jobs = sorted(client.world.store.jobs)
    if jobs:
        job = chance.choice(jobs)
        total = sum(client.world.store.batches[b].count for b in client.world.store.of_job.get(job, ()))
        if total:
            client.submit([payload(chance)], _links([(0, 0, job, chance.randrange(total))]))


def a_cancel(client: ClientHost, chance: random.Random) -> None:
    jobs = sorted(client.world.store.jobs)
    if jobs:
        part = chance.random() < 0.5
        client.cancel(chance.choice(jobs[-6:]), chance.randrange(5) if part else 0, chance.randrange(9) if part else -1)


def a_hold(client: ClientHost, chance: random.Random) -> None:
    """A job that is on hold from its start, or an older one; it is released later, and some are put on hold again."""
    known = set(client.world.store.jobs)
    if not known or chance.random() < 0.4:
        count = chance.randrange(1, 30)
        payloads = [payload(chance) for _ in range(count)]
        chain = _links([(k, 0, 0, k - 1) for k in range(1, count)]) if chance.random() < 0.3 else b""
        client.submit(payloads, chain, retries=chance.randrange(3), hold=True)
        return
    job = chance.choice(sorted(known)[-6:])
    client.set_hold(job, True)
    for at in sorted(chance.uniform(0.1, 8.0) for _ in range(chance.randrange(3))):
        client.world.after(at, client.set_hold, job, chance.random() < 0.3)


def release_all(cluster: Cluster) -> None:
    """Whoever lives releases what is on hold."""
    client = next((client for client in cluster.clients if not client.dead), None)
    if client is not None and cluster.broker is not None:
        for job in list(cluster.broker.machine.state.book.jobs.values()):
            if job.on_hold:
                client.set_hold(job.id, False)


def a_gang(client: ClientHost, chance: random.Random) -> None:
    """Tasks of several ranks of one MPI world or with a step, of which some fail, or of several cores of one node."""
    plan = client.world.plan
    most = plan.ranks_per_node * (2 if plan.one_world else 1)
    ranks = chance.randrange(1, most + 1)
    alone = ranks == 1 and chance.random() < 0.7
    cores = chance.randrange(1, plan.ranks_per_node + 1) if alone else 1
    draw = chance.random()
    spread, step = draw < 0.3, not alone and 0.2 < draw < 0.6
    needs = terms.encode(terms.Terms(ranks=0 if alone else ranks, cores=cores, spread=spread, step=step))
    payloads = [payload(chance) for _ in range(chance.randrange(1, 6))]
    client.submit(payloads, terms=needs, retries=chance.randrange(2), priority=chance.randrange(-1, 2))


Order = Callable[[ClientHost, random.Random], None]
#: orders and how often each is drawn
ORDERS: dict[Order, int] = {
    a_map: 8, an_uneven_map: 3, a_chain: 2, a_fan: 2, a_structure: 3, a_limit: 2, a_loop: 2, a_follower: 1, a_cancel: 3,
    a_gang: 3,
}  # fmt: skip


def order(cluster: Cluster, chance: random.Random) -> None:
    """One client asks for something."""
    client = chance.choice([client for client in cluster.clients if not client.dead])
    (what,) = chance.choices(list(ORDERS), weights=list(ORDERS.values()))
    cluster.tell(client.name, f"program: {what.__name__.replace('_', ' ')}")
    what(client, chance)
