"""Preemption: preemptible tasks make room for tasks of a strictly higher priority that find no idle rank.

What was not started goes back as if it had never been granted. What runs is ended, the lowest priority first and of one
priority the youngest, no more than there are tasks that wait; it is queued again free of charge (Cause.PREEMPTED), and
does not start again while the others wait: priorities see to that. A node is looked at only for tasks that may go
there, or what is ended there would start there again. Nothing is ended before somebody has waited
``preempt_after_s``: most often a rank is free sooner.

Somebody waits in the queue, or at a node, which was given a task to have at hand and runs longer ones before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pyfi_hpc.core import health
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import ClassKey
from pyfi_hpc.core.state import State, Victim
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.messages import Preempt

#: a node that was asked and does nothing is asked again, seconds
_AGAIN_S = 10.0
#: between two looks while somebody waits, seconds
_LOOK_S = 0.25
#: in place of an offset: what was not started of a grant was asked back
_UNSTARTED = -1


@dataclass(slots=True)
class _Wanted:
    """Room on one node: (priority, count) of tasks that may go there, and of those that lie there."""

    waiting: list[tuple[int, int]]
    stuck: list[tuple[int, int]]
    ended: int = 0
    #: offsets that run, by grant
    running: dict[int, list[int]] = field(default_factory=dict)


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
    wanted = {node: room for node in _nodes(s, now) if (room := _room_wanted(s, node, since, room_on, now)) is not None}
    if not wanted:
        mine.rest()
        return
    waited = any(room.stuck for room in wanted.values())
    mine.since = mine.since or (now - s.limits.preempt_after_s if waited else now)
    act_at = mine.since + s.limits.preempt_after_s
    mine.look_at = max(now + _LOOK_S, act_at)
    if now >= act_at:
        _forget_ended(s, now)
        _make_room(s, wanted, now, out)


def _nodes(s: State, now: float) -> list[Node]:
    """Those that hold preemptible tasks and have no idle rank."""
    found = {grant.node.name: grant.node for grant in s.nodes.preemptible.values()}
    return [
        node for node in found.values()
        if health.usable(s, node, now) and not node.draining and 0 < node.rank_count <= node.runnable
    ]  # fmt: skip


def _room_wanted(
    s: State, node: Node, since: float, room_on: Callable[[Node, ClassKey], int], now: float
) -> _Wanted | None:
    """What would run on a node if its preemptible tasks did not; None: nothing."""
    lowest = min(grant.batch.priority for grant in _preemptible(s, node))
    running: dict[int, list[int]] = {}
    for number, offset in node.running:
        running.setdefault(number, []).append(offset)
    only = len(s.nodes.by_name) == 1
    waiting = s.queue.waiting(node.name, lowest, only, since, lambda key: room_on(node, key))
    stuck = []
    if len(node.running) >= node.rank_count:
        for grant in node.grants.values():
            count = grant.open - len(running.get(grant.id, ()))
            if grant.batch.priority > lowest and count > 0 and now >= _at(grant) + s.limits.preempt_after_s:
                stuck.append((grant.batch.priority, count))
    return _Wanted(waiting, stuck, 0, running) if waiting or stuck else None


def _preemptible(s: State, node: Node) -> Iterator[Grant]:
    return (grant for grant in s.nodes.preemptible.values() if grant.node is node)


def _make_room(s: State, wanted: dict[Node, _Wanted], now: float, out: Effects) -> None:
    asked = s.preempting.asked
    coming = 0  # ranks for those that wait in the queue
    for (_, offset), victim in asked.items():
        if offset != _UNSTARTED and victim.for_stuck and victim.node in wanted:
            wanted[victim.node].ended += 1
        elif offset != _UNSTARTED:
            coming += 1
    grants = [grant for grant in s.nodes.preemptible.values() if grant.node in wanted]
    grants.sort(key=lambda grant: (grant.batch.priority, -_at(grant), -grant.id))
    for grant in grants:
        room, node = wanted[grant.node], grant.node
        queued, stuck = _above(room.waiting, grant), _above(room.stuck, grant)
        if not queued and not stuck:
            continue
        runs = [offset for offset in room.running.get(grant.id, ()) if grant.left[offset - grant.lo]]
        if grant.open > len(runs) and (grant.id, _UNSTARTED) not in asked:
            # it would take the rank that becomes free
            asked[grant.id, _UNSTARTED] = Victim(node, now, False)
            out.send(node.peer, Preempt(grant.id, grant.lo, grant.count, False))
        for offset in sorted(runs, reverse=True):
            if (grant.id, offset) in asked:
                continue
            for_stuck = room.ended < stuck
            if not for_stuck and coming >= queued:
                break
            room.ended += for_stuck
            coming += not for_stuck
            asked[grant.id, offset] = Victim(node, now, for_stuck)
            out.send(node.peer, Preempt(grant.id, offset, 1, True))


def _at(grant: Grant) -> float:
    assert grant.charge is not None
    return grant.charge.at


def _above(found: list[tuple[int, int]], grant: Grant) -> int:
    return sum(count for priority, count in found if priority > grant.batch.priority)


def _forget_ended(s: State, now: float) -> None:
    """What has ended, and whose rank was given to another: of one that lies at the node the next beat tells that."""
    for (number, offset), victim in list(s.preempting.asked.items()):
        grant = s.nodes.preemptible.get(number)
        if not victim.ended_at and (grant is None or (offset != _UNSTARTED and not grant.left[offset - grant.lo])):
            victim.ended_at = now
        beat_at = victim.node.lease_until - s.limits.lease_s
        if now > victim.at + _AGAIN_S or (victim.ended_at and (not victim.for_stuck or beat_at > victim.ended_at)):
            del s.preempting.asked[number, offset]
