"""Dispatch: fill idle ranks first, then the nodes' buffers, in proportion to what each can take.

Cost follows grants, not tasks. Near the end of the work a node that holds more than it runs is asked to hand
back tasks that have not started, so that no rank idles while a task waits behind another.
"""

from __future__ import annotations

from collections.abc import Callable

from pyfi_hpc.core import fits, follow, gangs, health, items, preempt, reserve, walltime
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.core.queue import ClassKey, Pick, key_of
from pyfi_hpc.core.settle import settle_unrun
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects, ReadPayloads
from pyfi_hpc.model.ids import GrantId
from pyfi_hpc.model.messages import Grant, Item, Recall
from pyfi_hpc.model.packed import failure
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.model.terms import decode


def fill(s: State, now: float, out: Effects) -> None:
    """Grant ready tasks to nodes that can take them."""
    if s.queue.ready and not s.ledger_down:
        usable = [node for node in s.nodes.by_name.values() if health.usable(s, node, now)]
        s.queue.shares.ranks = sum(node.rank_count for node in usable)
        nodes = [node for node in usable if node.spare > 0]
        if nodes:
            several = sum(node.rank_count > 0 for node in usable) > 1
            at = now + s.utc_offset
            since = at - s.limits.elsewhere_s if several else float("inf")
            _next(s, usable, since, at, out)
            _share(s, nodes, lambda node: min(node.spare, node.vacant), since, at, out)
            _share(s, nodes, lambda node: node.spare, since, at, out)
            if s.gangs_short:
                gangs.renew(s, now, out)
    if s.nodes.preemptible or s.preempting.since:
        several = sum(node.rank_count > 0 for node in s.nodes.by_name.values()) > 1
        since = now + s.utc_offset - s.limits.elsewhere_s if several else float("inf")
        preempt.look(s, since, lambda node, key: _room_made(s, node, key, now), now, out)
    if s.queue.to_load:
        batches = [batch.id for batch in s.queue.to_load.values()]
        s.queue.to_load.clear()
        s.queue.loading.update(batches)
        out.queries.append(ReadPayloads(batches))
    if not s.queue.may_grant() and not s.ledger_down:
        if s.nodes.leading:
            _follow(s, now, out)
        _rebalance(s, now, out)


def _next(s: State, nodes: list[Node], since: float, at: float, out: Effects) -> None:
    """For whom something is kept goes before all others as soon as there is enough."""
    s.gangs_short.clear()
    if s.ahead is None:
        return
    key, now = s.ahead.key, at - s.utc_offset
    where = _where(s, nodes, key, now)
    if where is None:
        s.ahead = None
    for node in where or ():
        s.ahead = None
        pick = s.queue.take(
            node.name, 1, s.limits.grant_bytes_max, len(nodes) == 1, since,
            lambda other: int(other == key), walltime.left_s(s, node, now),
        )  # fmt: skip
        if pick is not None:
            _give(s, node, pick, at, out)
            return
    reserve.count_spare(s)


def _where(s: State, nodes: list[Node], key: ClassKey, now: float) -> list[Node] | None:
    """Where there is enough for who is next; None: it does not wait any more, or never can start as things are."""
    assert s.ahead is not None
    if not s.queue.wants(key):
        return None
    if s.ahead.is_gang:
        if not gangs.worlds_for(s, decode(key.terms), now, _in_time(s, key, now)):
            return None
        placed = _gang_place(s, key, now)
        return [node for node, _ in placed[1]] if placed is not None else []
    kept = [node for node in nodes if node.name in s.ahead.nodes and not node.draining]
    if not kept or not walltime.room_on(s, kept[0], key, now):
        return None
    return [node for node in nodes if not node.draining and _fits(node, key)]


def _give(s: State, node: Node, pick: Pick, at: float, out: Effects) -> None:
    if decode(pick.batch.terms).ranks:
        _gang(s, pick, at, out)
    elif (item := _item(s, node, pick, at, out)) is not None:
        out.send(node.peer, Grant(s.epoch, [item]))


def _share(
    s: State, nodes: list[Node], room_of: Callable[[Node], int], since: float, at: float, out: Effects
) -> None:
    """Hand out what is ready in proportion to each node's room."""
    rooms = [(room_of(node), node) for node in nodes]
    rooms = [(room, node) for room, node in rooms if room > 0]
    rooms.sort(key=lambda pair: -pair[0])
    total = sum(room for room, _ in rooms)
    if not total:
        return
    ready = s.queue.ready
    for room, node in rooms:
        want = room if ready >= total else -(-ready * room // total)
        _grant(s, node, want, room_of, len(rooms) == 1, since, at, out)


def _grant(
    s: State, node: Node, want: int, room_of: Callable[[Node], int], only_node: bool, since: float, at: float,
    out: Effects,
) -> None:  # fmt: skip
    items: list[Item] = []
    size = 0
    while (want := min(want, room_of(node))) > 0 and size < s.limits.grant_bytes_max and _has_room(s, node):
        room = min(s.limits.grant_bytes_max - size, s.limits.node_bytes_max - node.outstanding_bytes)
        pick = s.queue.take(
            node.name, min(want, s.limits.grant_tasks_max), room, only_node, since,
            lambda key: _room_on(s, node, key, at - s.utc_offset, out), walltime.left_s(s, node, at - s.utc_offset),
        )  # fmt: skip
        if pick is None:
            break
        if pick.batch.terms and decode(pick.batch.terms).ranks:
            _gang(s, pick, at, out)
            continue
        item = _item(s, node, pick, at, out)
        if item is None:
            continue
        want -= item.count
        reserve.beside(s, s.nodes.grants[GrantId(item.grant)])
        size += s.nodes.grants[GrantId(item.grant)].size
        items.append(item)
    if items:
        out.send(node.peer, Grant(s.epoch, items))


def _gang(s: State, pick: Pick, at: float, out: Effects) -> None:
    """A task of several ranks goes to all of its nodes, which need not be the one whose turn it was."""
    now = at - s.utc_offset
    placed = _gang_place(s, key_of(pick.batch), now)
    assert placed is not None, "it was taken because there is room"
    inputs: items.Inputs = []
    if pick.batch.waiting:
        hi, inputs = _inputs(s, pick, at, out)
        if hi == pick.lo:
            return
    for grant in gangs.start(s, pick, *placed, inputs, now, out):
        reserve.beside(s, grant)


def _gang_place(s: State, key: ClassKey, now: float) -> tuple[str, list[gangs.Share]] | None:
    """Where a gang can start and end in time, beside what is kept for a task."""
    in_time, ahead = _in_time(s, key, now), s.ahead
    kept = ahead is not None and not ahead.is_gang

    def may(node: Node) -> bool:
        return in_time(node) and not (kept and reserve.room_beside(s, node, key, now) <= 0)

    return gangs.place(s, decode(key.terms), now, may)


def _in_time(s: State, key: ClassKey, now: float) -> Callable[[Node], bool]:
    return lambda node: walltime.room_on(s, node, key, now) > 0


def _room_on(s: State, node: Node, key: ClassKey, now: float, out: Effects) -> int:
    """How many tasks of a class this node may get now; of gangs one, if there are idle ranks for it anywhere."""
    room = min(walltime.room_on(s, node, key, now), reserve.room_beside(s, node, key, now))
    if room <= 0 or key in s.gangs_short:
        return 0
    if not key.terms:
        if node.short_until:
            most_s = s.walltimes.most_s((key.socket, key.code, key.size), key.time_limit_s)
            return room if now + most_s <= node.short_until else min(room, max(0, node.vacant))
        return room
    terms = decode(key.terms)
    if not terms.ranks:
        here = _fits(node, key)
        if not here and reserve.may_be_next(s, key):
            reserve.for_task(s, key, now, _in_time(s, key, now))
        return min(room, here)
    if _gang_place(s, key, now) is not None:
        return 1
    s.gangs_short.add(key)
    if reserve.may_be_next(s, key):
        reserve.for_gang(s, key, now, _in_time(s, key, now), out)
    return 0


def _fits(node: Node, key: ClassKey) -> int:
    """How many tasks of a class that is none of gangs find what they need on a node."""
    return fits.way_for(decode(key.terms).ways, node.stock, node.rank_count)[1]


def _room_made(s: State, node: Node, key: ClassKey, now: float) -> int:
    """The same of a class that is none of gangs, were there no plain tasks."""
    room = walltime.room_on(s, node, key, now)
    return min(room, _fits(node, key)) if key.terms else room


def _has_room(s: State, node: Node) -> bool:
    return node.outstanding_bytes < s.limits.node_bytes_max or not node.outstanding


def _item(s: State, node: Node, pick: Pick, at: float, out: Effects) -> Item | None:
    batch, lo, hi = pick.batch, pick.lo, pick.hi
    inputs: items.Inputs = []
    if batch.waiting:
        hi, inputs = _inputs(s, pick, at, out)
        if hi == lo:
            return None
    return items.grant(s, node, batch, lo, hi, pick.attempt, inputs, at - s.utc_offset, out)


def _inputs(s: State, pick: Pick, at: float, out: Effects) -> tuple[int, items.Inputs]:
    """Results for the tasks of a pick, up to the first whose inputs must be read again; the rest goes back."""
    batch = pick.batch
    inputs: items.Inputs = []
    for offset in range(pick.lo, pick.hi):
        # before they are read again: so much is never in memory at once
        total = s.graph.size(batch, offset)
        values = s.graph.inputs(batch, offset, out) if total <= s.limits.inputs_bytes_max else None
        if total > s.limits.inputs_bytes_max:
            text = f"the results that it takes as arguments are {total} bytes; the limit is {s.limits.inputs_bytes_max}"
            settle_unrun(s, batch, [offset], TaskState.FAILED, failure("TooLarge", text), at, out)
            s.close_if_done(batch, out)
        if values is None or (inputs and total > s.limits.grant_bytes_max):
            rest = offset + (values is None)
            if rest < pick.hi:
                s.queue.push_first(batch, rest, pick.hi)
            return offset, inputs
        inputs.append(values)  # type: ignore[arg-type]
    return pick.hi, inputs


def _follow(s: State, now: float, out: Effects) -> None:
    for node in list(s.nodes.leading.values()):
        if health.usable(s, node, now):
            follow.fill(s, node, now, out)
        if not node.leads:
            del s.nodes.leading[node.name]


def _rebalance(s: State, now: float, out: Effects) -> None:
    """A node has idle ranks and nothing waits that may run: ask the fullest node for what it has not started."""
    if len(s.nodes.by_name) < 2:
        return
    nodes = s.nodes.by_name.values()
    usable = [node for node in nodes if node.vacant > 0 and health.usable(s, node, now)]
    if not usable:
        return
    fullest = min(nodes, key=lambda node: node.vacant)
    idle = sum(node.vacant for node in usable if walltime.could_take(s, node, fullest, now))
    if not idle:
        return
    surplus = -fullest.vacant
    if surplus > 0 and not fullest.recalled:
        fullest.recalled = True
        out.send(fullest.peer, Recall(min(surplus, idle)))
