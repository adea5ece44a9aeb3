"""Reservation: what is kept for the first that finds too little, so that nothing waits for ever.

The first gang whose turn comes and that finds too few idle ranks becomes the **next**: ranks that fall idle are kept
for it, wherever in its world. So does the first task that finds too little left of what it needs on every node, where
others have it: it waits for the node that can give it soonest. What is kept gets meanwhile only what is thought to end
by the time at which the next can start, were nothing put in front. That time is fixed when it becomes the next, and
after it nothing is put in front: it waits for what runs, which began no later. This is for one at a time: kept ranks do
nothing, and two gangs wait longer side by side than one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pyfi_hpc.core import fits, gangs, health, walltime
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import ClassKey
from pyfi_hpc.core.state import State
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import NodeName
from pyfi_hpc.model.terms import Needs, Terms, decode


@dataclass(slots=True)
class Next:
    """For whom it is kept."""

    key: ClassKey
    #: when it can start, were nothing put in front, monotonic seconds
    at: float
    #: where it may run
    nodes: set[NodeName]
    is_gang: bool
    #: of a gang: idle ranks there beyond those that it needs; counted anew each time that ranks are filled
    spare: int = 0


def may_be_next(s: State, key: ClassKey) -> bool:
    """Nobody is, or somebody of a lower priority; and nothing else holds this class back."""
    return (s.ahead is None or key.priority > s.ahead.key.priority) and s.queue.wants(key)


def for_gang(s: State, key: ClassKey, now: float, may: Callable[[Node], bool], out: Effects) -> None:
    """There are not ranks enough for a gang whose turn it is. Cost: a look at all that runs."""
    needs = decode(key.terms)
    found = [(_starts_in_s(s, shares, needs, now), shares) for shares in gangs.worlds_for(s, needs, now, may)]
    if not found:
        return  # it never can, as things are
    in_s, shares = min(found, key=lambda one: one[0])
    s.ahead = Next(key, now + in_s, {node.name for node, _ in shares}, True)
    for node, _ in shares:
        if node.vacant < 0 and not node.recalled:
            node.recalled = True  # what waits there behind what runs would make it wait twice
            out.send(node.peer, m.Recall(-node.vacant))


def for_task(s: State, key: ClassKey, now: float, may: Callable[[Node], bool]) -> None:
    """A node has too little for a task with needs whose turn it is; perhaps all have. Cost: a look at what they run."""
    terms, soonest = decode(key.terms), None
    for node in s.nodes.by_name.values():
        if node.draining or not health.usable(s, node, now) or not may(node):
            continue
        in_s = _fits_in_s(s, node, terms, now)
        if in_s == 0.0:
            return  # it goes there, in its turn
        if in_s is not None and (soonest is None or in_s < soonest[0]):
            soonest = in_s, node.name
    if soonest is not None:
        s.ahead = Next(key, now + soonest[0], {soonest[1]}, False)


def _fits_in_s(s: State, node: Node, terms: Terms, now: float) -> float | None:
    """When others have given back enough for a task, in seconds; None: the node never has so much."""
    if fits.way_for(terms.ways, fits.Stock(node.stock.inventory), node.rank_count)[1] <= 0:
        return None
    stock = replace(node.stock, named=dict(node.stock.named))
    ends = [
        (s.walltimes.rest_s((g.batch.socket, g.batch.code, g.batch.size), now - g.at), g.id, g)
        for g in node.grants.values() if g.needs is not None
    ]  # fmt: skip
    in_s = 0.0
    for end_s, _, grant in sorted(ends):
        if fits.way_for(terms.ways, stock, node.rank_count)[1] > 0:
            break
        assert grant.needs is not None
        stock.give(grant.needs, grant.width, grant.members, -grant.open)
        in_s = max(end_s, 0.001)
    return in_s


def count_spare(s: State) -> None:
    """How many idle ranks there are that the next gang does not need."""
    ahead = s.ahead
    if ahead is not None and ahead.is_gang:
        nodes = [s.nodes.by_name[name] for name in ahead.nodes if name in s.nodes.by_name]
        needs = decode(ahead.key.terms)
        ahead.spare = sum(max(0, node.vacant) for node in nodes) - needs.ranks * needs.cores


def room_beside(s: State, node: Node, key: ClassKey, now: float) -> int:
    """How many tasks of a class a node may get, as far as it is kept."""
    ahead = s.ahead
    if ahead is None or key == ahead.key or key.priority > ahead.key.priority or node.name not in ahead.nodes:
        return s.limits.grant_tasks_max
    if not ahead.is_gang and not key.terms:
        return s.limits.grant_tasks_max  # ranks that run plain tasks are not what it lacks
    most_s = s.walltimes.most_s((key.socket, key.code, key.size), key.time_limit_s)
    if now + most_s > ahead.at:
        if not ahead.is_gang:
            return 0
        terms = decode(key.terms)
        width = fits.width(terms, node.rank_count)
        return min(node.vacant, ahead.spare) if not key.terms else ahead.spare // (terms.members * width)
    # what is short may wait at the node too, so that ranks do not wait for the network
    is_short = key.terms or most_s <= 2.0 * s.limits.buffer_s
    return s.limits.grant_tasks_max if is_short else node.vacant


def beside(s: State, grant: Grant) -> None:
    """Others have got ranks while some are kept."""
    if s.ahead is not None and grant.node.name in s.ahead.nodes:
        s.ahead.spare -= grant.open * grant.ranks


def _starts_in_s(s: State, shares: list[gangs.Share], needs: Needs, now: float) -> float:
    """In how many seconds so many ranks are free as a gang needs, with what runs now and nothing else."""
    known: dict[tuple[walltime.Kind, int], float] = {}
    ends: list[float] = []
    for node, room in shares:
        width = fits.width(needs, node.rank_count)
        ends += _frees(s, node, known, now)[width - 1 : room * width : width]
    return sorted(ends)[needs.ranks - 1]


def _frees(s: State, node: Node, known: dict[tuple[walltime.Kind, int], float], now: float) -> list[float]:
    """In how many seconds its ranks are free, soonest first."""
    ends: list[float] = []
    for grant in node.grants.values():
        if len(ends) >= node.rank_count:
            break  # the oldest run
        kind, age_s = (grant.batch.socket, grant.batch.code, grant.batch.size), now - grant.at
        key = kind, int(age_s * 8)
        if key not in known:
            known[key] = s.walltimes.rest_s(kind, age_s)
        ends += [known[key]] * (grant.open * grant.ranks)
    ends = sorted(ends[: node.rank_count])
    return [0.0] * (node.rank_count - len(ends)) + ends
