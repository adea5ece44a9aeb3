"""What walltimes cost: functions of many lengths, none of which says how long it takes, on allocations that end.

One broker that knows nothing yet, agents as they ship, cheap ranks. Each node is an allocation of its own; they began
at different times, and when one ends another comes after a while in the queue. Rank-seconds are lost where the end of
an allocation cuts a task off; all of it is done again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster, Plan

WALLTIME_S = 1800.0
#: nodes at a time, and ranks of each
NODES, RANKS = 4, 8
_DRAIN_S, _GRACE_S = 60.0, 5.0
#: from the end of one allocation to the start of the next in its place, at most, seconds
_QUEUE_S = 120.0
#: all of it is done in so much virtual time, or something waits for ever, seconds
_LIMIT_S = 30 * WALLTIME_S
_UNTOLD_S = 3 * WALLTIME_S
_ROUND_S, _RANK_BEAT_S = 0.02, 4.0

#: seconds of one call
Draw = Callable[[random.Random], float]


def _short(chance: random.Random) -> float:
    return chance.uniform(0.5, 5.0)


def _medium(chance: random.Random) -> float:
    return min(600.0, chance.lognormvariate(4.0, 0.5))


def _long(chance: random.Random) -> float:
    return chance.uniform(300.0, 600.0)


def _wild(chance: random.Random) -> float:
    """Most are short, and some a hundred times as long."""
    return min(1200.0, chance.lognormvariate(3.0, 1.2))


#: function -> how many calls in all, what one takes
MIX: dict[str, tuple[int, Draw]] = {
    "sample.work": (2000, _short), "sample.work2": (600, _medium), "sample.work3": (100, _long),
    "sample.work4": (500, _wild),
}  # fmt: skip
#: calls of this one say how large they are, and take so many seconds for each
SIZED, SIZED_S, SIZES = "sample.work5", 20.0, (1, 4, 16)
#: one that returns Continue: calls, seconds
STEPWISE, STEPWISE_CALLS, STEPWISE_S = "sample.work6", 4, 4000.0


@dataclass(slots=True)
class Losses:
    """What a run came to; all in rank-seconds."""

    seed: int
    tasks: int
    attempts: int
    #: what all allocations had until the last task ended
    granted_s: float
    #: what tasks took that counted
    worked_s: float
    #: what walltimes cut off
    lost_s: float
    virtual_s: float

    @property
    def lost_share(self) -> float:
        return self.lost_s / self.granted_s


class Run:
    """One seed.

    Parameters
    ----------
    told : bool
        Whether agents know when their allocations end. Else only the first hours are looked at: a task that is long may
        be started again and again where it cannot end.
    """

    def __init__(self, seed: int, told: bool = True) -> None:
        self._chance = random.Random(f"walltime {seed}")
        plan = Plan(nodes=0, ranks_per_node=RANKS, slurm=True, real_ranks=False, rank_beat_s=_RANK_BEAT_S, sockets=6)
        self.cluster = Cluster(seed, plan)
        self.cluster.audited = self.cluster.net.codec = False
        self._told = told
        self._made = 0
        #: when each allocation began, and its end
        self._times: list[tuple[float, float]] = []
        for place in range(NODES):
            # the first ones are some way through their time when the work comes
            self._start(WALLTIME_S * (place + 1) / NODES)

    def _start(self, walltime_s: float = WALLTIME_S) -> None:
        self._made += 1
        cluster = self.cluster
        agent = cluster.start_allocation(f"n{self._made}", f"{self._made}", walltime_s, _DRAIN_S, _GRACE_S)
        if not self._told:
            machine = agent.machine
            machine._ends_at = machine._bundler._ends_at = machine._bundler._late_at = float("inf")
        agent.round_s = _ROUND_S
        self._times.append((cluster.now, cluster.now + walltime_s))
        cluster.after(walltime_s + self._chance.random() * _QUEUE_S, self._start)

    def go(self) -> Losses:
        cluster = self.cluster
        client = cluster.join()
        worked = 0.0
        orders = [(name, 0.0, list(_drawn(draw, count, self._chance))) for name, (count, draw) in MIX.items()]
        orders += [(SIZED, float(size), [SIZED_S * size * self._chance.uniform(0.8, 1.2)] * 20) for size in SIZES]
        for name, size, seconds in orders:
            worked += sum(seconds)
            for at in range(0, len(seconds), 50):  # they come one after another over the first allocations
                part = [f"{value:.3f}" for value in seconds[at : at + 50]]
                when = self._chance.random() * WALLTIME_S
                cluster.at(when, _submit, client, part, name, size)
        total = sum(len(seconds) for _, _, seconds in orders)
        if self._told:  # else it would be cut off for ever
            cluster.at(100.0, _submit, client, [f">{STEPWISE_S}"] * STEPWISE_CALLS, STEPWISE, 0.0)
            worked += STEPWISE_S * STEPWISE_CALLS
            total += STEPWISE_CALLS
        if self._told:
            cluster.run(lambda: len(client.results) == total, _LIMIT_S)
        else:
            cluster.run_for(_UNTOLD_S)
        end = cluster.now
        granted = sum(RANKS * (min(until, end) - since) for since, until in self._times if since < end)
        if self._told:
            cluster.run_for(1.0)
            check(cluster)
        return Losses(cluster.seed, total, len(cluster.executed), granted, worked, cluster.cut_s, end)


def _drawn(draw: Draw, count: int, chance: random.Random) -> Iterable[float]:
    return (draw(chance) for _ in range(count))


def _submit(client: object, payloads: list[str], socket: str, size: float) -> None:
    client.submit(payloads, socket=socket, size=size)  # type: ignore[attr-defined]


def run(seed: int) -> Losses:
    """Cost: some seconds."""
    return Run(seed).go()


def told(found: Losses) -> dict[str, float]:
    """As plain numbers, shares in percent."""
    return {
        "seed": found.seed, "tasks": found.tasks, "attempts": found.attempts, "granted_s": round(found.granted_s),
        "worked_percent": round(100 * found.worked_s / found.granted_s, 2), "lost_s": round(found.lost_s),
        "lost_percent": round(100 * found.lost_share, 2), "virtual_s": round(found.virtual_s),
    }  # fmt: skip
