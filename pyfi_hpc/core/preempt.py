"""Preemption: preemptible tasks make room for tasks of a strictly higher priority that find no idle rank.

What was not started goes back as if it had never been granted. What runs is ended, the lowest priority first and of one
priority the youngest, no more than there are tasks that wait; it is queued again free of charge (Cause.PREEMPTED), and
does not start again while the others wait: priorities see to that. A node is looked at only for tasks that may go
there, or what is ended there would start there again. Nothing is ended before somebody has waited
``preempt_after_s``: most often a rank is free sooner.

Somebody waits in the queue, or at a node, which was given a task to have at hand and runs longer ones before it. For
what lies at a node so many ranks are made free as it takes and never more: it may wait for its code. A task that needs
cores, memory, GPUs or named things that preemptible ones have gets those: for one such task at a time and node, the
fewest are ended of those that come first. For a gang they are ended where the fewest make room for one more of its
ranks, until all have it; where not all can have it, none is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pyfi_hpc.core import fits, gangs, health, walltime
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import ClassKey
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.messages import Preempt
from pyfi_hpc.model.terms import Needs, Terms, decode

#: a node that was asked and does nothing is asked again, seconds
_AGAIN_S = 10.0
#: between two looks while somebody waits, seconds
_LOOK_S = 0.25
#: in place of an offset: what was not started of a grant was asked back
_UNSTARTED = -1
_MANY = 1 << 20


@dataclass(slots=True)
class _Stuck:
    """A grant that lies at a node behind others, and how many ranks it wants."""

    grant: Grant
    ranks: int


@dataclass(slots=True)
class _Short:
    """A class of tasks with needs for which too little of a node is left."""

    key: ClassKey
    tasks: int
    #: what has to end for one of them, as (grant, offset); empty: it has been asked to
    holders: list[tuple[Grant, int]]


@dataclass(slots=True)
class _Wanted:
    """Room on one node: (priority, ranks) of tasks that may go there, and of those that lie there."""

    waiting: list[tuple[int, int]]
    stuck: list[_Stuck]
    #: offsets that run, by grant
    running: dict[int, list[int]]
    short: _Short | None


def look(s: State, since: float, room_on: Callable[[Node, ClassKey], int], now: float, out: Effects) -> None:
    """End preemptible tasks if somebody of a higher priority has waited for long enough.

    Cost: nothing where no preemptible task is granted; else, every 0.25 s at most, a look at classes and grants.
    """
    mine = s.preempting
    if not s.nodes.preemptible or s.ledger_down:
        mine.rest()
        return
    if now < mine.look_at and mine.since:
        return
    nodes = _nodes(s, now)
    wanted = {node: room for node in nodes if (room := _room_wanted(s, node, since, room_on, now)) is not None}
    gang = _for_gang(s, nodes, since, now)
    if not wanted and gang is None:
        mine.rest()
        return
    waited = any(room.stuck for room in wanted.values())
    mine.since = mine.since or (now - s.limits.preempt_after_s if waited else now)
    act_at = mine.since + s.limits.preempt_after_s
    mine.look_at = max(now + _LOOK_S, act_at)
    if now >= act_at:
        _forget_ended(s, now)
        for grant, offset in gang or ():
            _end(s, grant, offset, now, out)
        _make_room(s, wanted, now, out)


def _nodes(s: State, now: float) -> list[Node]:
    """Those that hold preemptible tasks."""
    found = {grant.node.name: grant.node for grant in s.nodes.preemptible.values()}
    return [
        node for node in found.values() if health.usable(s, node, now) and not node.draining and node.rank_count
    ]


def _room_wanted(
    s: State, node: Node, since: float, room_on: Callable[[Node, ClassKey], int], now: float
) -> _Wanted | None:
    """What would run on a node if its preemptible tasks did not; None: nothing."""
    lowest = min(grant.batch.priority for grant in _preemptible(s, node))
    running = _running(node)
    only = len(s.nodes.by_name) == 1

    def waiting(room: Callable[[ClassKey], int]) -> list[tuple[ClassKey, int]]:
        return s.queue.waiting(node.name, lowest, only, since, lambda key: 0 if _is_gang(key) else room(key))

    classes = waiting(lambda key: _MANY if _is_short(s, node, key, room_on, now) else 0)
    short = _short(s, node, running, *max(classes, key=lambda found: found[0].priority)) if classes else None
    ranks, stuck = [], []
    if node.vacant <= 0:
        ranks = [(key.priority, count) for key, count in waiting(lambda key: room_on(node, key))]
        stuck = _stuck(s, node, lowest, running, now)
    return _Wanted(ranks, stuck, running, short) if ranks or stuck or short else None


def _stuck(s: State, node: Node, lowest: int, running: dict[int, list[int]], now: float) -> list[_Stuck]:
    """What has lain at a node for long enough."""
    found = []
    for grant in node.grants.values():
        if grant.batch.waiting and node.followers:
            continue  # it waits for results of others there
        if grant.batch.priority > lowest and now >= _at(grant) + s.limits.preempt_after_s:
            wanted = grant.ranks * (grant.open - len(running.get(grant.id, ())))
            if (ranks := wanted - s.preempting.served.get(grant.id, 0)) > 0:
                found.append(_Stuck(grant, ranks))
    return found


def _is_short(s: State, node: Node, key: ClassKey, room_on: Callable[[Node, ClassKey], int], now: float) -> bool:
    """Whether a class with needs gets nothing of this node because others have it."""
    return bool(key.terms) and walltime.room_on(s, node, key, now) > 0 and room_on(node, key) == 0


def _short(s: State, node: Node, running: dict[int, list[int]], key: ClassKey, ranks: int) -> _Short | None:
    """Which preemptible tasks have what one task of this class needs; None: they have too little of it."""
    terms, stock = decode(key.terms), replace(node.stock, named=dict(node.stock.named))
    found: list[tuple[Grant, int]] = []
    come = False
    for grant in sorted(_preemptible(s, node), key=_order):
        if grant.needs is None or grant.batch.priority >= key.priority:
            continue
        runs = [offset for offset in running.get(grant.id, ()) if grant.left[offset - grant.lo]]
        for offset in [_UNSTARTED] * (grant.open > len(runs)) + sorted(runs, reverse=True):
            if not _fits(terms, node, stock):
                asked = (grant.id, offset) in s.preempting.asked
                come = come or asked
                found += [] if asked else [(grant, offset)]
                stock.give(grant.needs, grant.width, grant.members, -_tasks(grant, offset, runs))
    if not (found or come) or not _fits(terms, node, stock):
        return None
    for grant, offset in found[:-1]:  # the last one was needed, perhaps not all before it
        assert grant.needs is not None
        tasks = _tasks(grant, offset, running.get(grant.id, []))
        stock.give(grant.needs, grant.width, grant.members, tasks)
        if _fits(terms, node, stock):
            found.remove((grant, offset))
        else:
            stock.give(grant.needs, grant.width, grant.members, -tasks)
    return _Short(key, ranks // terms.cores, found)


def _running(node: Node) -> dict[int, list[int]]:
    """Offsets that ran at the last beat, by grant."""
    found: dict[int, list[int]] = {}
    for number, offset in node.running:
        found.setdefault(number, []).append(offset)
    return found


def _is_gang(key: ClassKey) -> bool:
    return bool(key.terms) and decode(key.terms).ranks > 0


# --- for a gang ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Spot:
    """A node's part in a gang: what is free, and what can be made free there."""

    node: Node
    width: int
    free: int
    stock: fits.Stock
    #: what can be ended, first what comes first: the grant, its offset, tasks
    can_end: list[tuple[Grant, int, int]]

    def places(self, needs: Needs) -> int:
        return max(0, min(self.free // self.width, self.stock.room(needs, self.node.rank_count)))

    def take(self, grant: Grant, tasks: int) -> None:
        self.free += tasks * grant.ranks
        if grant.needs is not None:
            self.stock.give(grant.needs, grant.width, grant.members, -tasks)


def _for_gang(s: State, nodes: list[Node], since: float, now: float) -> list[tuple[Grant, int]] | None:
    """What has to end for the gang of the highest priority, as (grant, offset); empty: it has been asked to. None: no
    gang waits for preemptible tasks."""
    only, found = len(s.nodes.by_name) == 1, set()
    for node in nodes:
        lowest = min(grant.batch.priority for grant in _preemptible(s, node))
        waiting = s.queue.waiting(node.name, lowest, only, since, lambda key: int(_is_gang(key)))
        found |= {key for key, _ in waiting}
    if not found:
        return None
    key = max(found, key=lambda key: key.priority)
    needs = decode(key.terms)
    tried = [
        _in_world(s, [_spot(s, node, needs, key.priority) for node, _ in shares], needs)
        for shares in gangs.worlds_for(s, needs, now, lambda node: walltime.room_on(s, node, key, now) > 0)
    ]
    return min((ends for ends in tried if ends is not None), key=len, default=None)


def _spot(s: State, node: Node, needs: Needs, priority: int) -> _Spot:
    stock = replace(node.stock, named=dict(node.stock.named))
    spot = _Spot(node, fits.width(needs, node.rank_count), node.vacant, stock, [])
    running = _running(node)
    for grant in sorted(_preemptible(s, node), key=_order):
        if grant.batch.priority < priority:
            runs = [offset for offset in running.get(grant.id, ()) if grant.left[offset - grant.lo]]
            for offset in [_UNSTARTED] * (grant.open > len(runs)) + sorted(runs, reverse=True):
                tasks = _tasks(grant, offset, runs)
                if (grant.id, offset) in s.preempting.asked:
                    spot.take(grant, tasks)
                else:
                    spot.can_end.append((grant, offset, tasks))
    spot.can_end.sort(key=lambda one: one[1] != _UNSTARTED)  # it would take what becomes free
    return spot


def _in_world(s: State, spots: list[_Spot], needs: Needs) -> list[tuple[Grant, int]] | None:
    """Greedily where the fewest tasks have to end for one more place. None: all of it is not enough."""
    ends: list[tuple[Grant, int]] = []
    missing = needs.ranks - sum(spot.places(needs) for spot in spots)
    while missing > 0:
        costs = [(cost, at) for at, spot in enumerate(spots) if (cost := _cost(spot, needs))]
        if not costs:
            return None
        cost, at = min(costs)
        spot = spots[at]
        before = spot.places(needs)
        for grant, offset, tasks in spot.can_end[:cost]:
            spot.take(grant, tasks)
            ends.append((grant, offset))
        del spot.can_end[:cost]
        missing -= spot.places(needs) - before
    return ends


def _cost(spot: _Spot, needs: Needs) -> int:
    """How many of what can be ended make one more place; 0: not even all."""
    trial = replace(spot, stock=replace(spot.stock, named=dict(spot.stock.named)))
    before = spot.places(needs)
    for count, (grant, _, tasks) in enumerate(spot.can_end, 1):
        trial.take(grant, tasks)
        if trial.places(needs) > before:
            return count
    return 0


def _tasks(grant: Grant, offset: int, runs: list[int]) -> int:
    return 1 if offset != _UNSTARTED else grant.open - len(runs)


def _fits(terms: Terms, node: Node, stock: fits.Stock) -> bool:
    return fits.way_for(terms.ways, stock, node.rank_count)[1] > 0


def _preemptible(s: State, node: Node) -> Iterator[Grant]:
    return (grant for grant in s.nodes.preemptible.values() if grant.node is node)


def _make_room(s: State, wanted: dict[Node, _Wanted], now: float, out: Effects) -> None:
    mine = s.preempting
    coming = sum(s.nodes.preemptible[number].ranks for number, _ in mine.for_queue)
    grants = [grant for grant in s.nodes.preemptible.values() if grant.node in wanted]
    grants.sort(key=_order)
    _make_room_for_needs(s, [room.short for room in wanted.values() if room.short is not None], now, out)
    for grant in grants:
        room = wanted[grant.node]
        queued = sum(ranks for priority, ranks in room.waiting if priority > grant.batch.priority)
        stuck = [one for one in room.stuck if one.grant.batch.priority > grant.batch.priority]
        if not queued and not stuck:
            continue
        runs = [offset for offset in room.running.get(grant.id, ()) if grant.left[offset - grant.lo]]
        if grant.open > len(runs) and (grant.id, _UNSTARTED) not in mine.asked:
            _end(s, grant, _UNSTARTED, now, out)  # it would take the rank that becomes free
        for offset in sorted(runs, reverse=True):
            if (grant.id, offset) in mine.asked:
                continue
            first = next((one for one in stuck if one.ranks > 0), None)
            if first is not None:
                first.ranks -= grant.ranks
                mine.served[first.grant.id] = mine.served.get(first.grant.id, 0) + grant.ranks
            elif coming < queued:
                coming += grant.ranks
                mine.for_queue.add((grant.id, offset))
            else:
                break
            _end(s, grant, offset, now, out)


def _make_room_for_needs(s: State, shorts: list[_Short], now: float, out: Effects) -> None:
    """On as many nodes as tasks wait, first where the fewest have to end."""
    left = {short.key: short.tasks for short in shorts}
    for short in sorted(shorts, key=lambda short: len(short.holders)):  # where it was asked before, none has to
        if left[short.key] > 0:
            left[short.key] -= 1
            for grant, offset in short.holders:
                _end(s, grant, offset, now, out)


def _end(s: State, grant: Grant, offset: int, now: float, out: Effects) -> None:
    s.preempting.asked[grant.id, offset] = now
    runs = offset != _UNSTARTED
    out.send(grant.node.peer, Preempt(grant.id, offset if runs else grant.lo, 1 if runs else grant.count, runs))


def _order(grant: Grant) -> tuple[int, float, int]:
    """What is ended first comes first."""
    return grant.batch.priority, -_at(grant), -grant.id


def _at(grant: Grant) -> float:
    assert grant.charge is not None
    return grant.charge.at


def _forget_ended(s: State, now: float) -> None:
    mine = s.preempting
    for (number, offset), at in list(mine.asked.items()):
        grant = s.nodes.preemptible.get(number)
        ended = grant is None or (offset != _UNSTARTED and not grant.left[offset - grant.lo])
        if ended or now > at + _AGAIN_S:
            del mine.asked[number, offset]
            mine.for_queue.discard((number, offset))
    for number in [number for number in mine.served if number not in s.nodes.grants]:
        del mine.served[number]
