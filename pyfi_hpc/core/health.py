"""Health: a rank or a node that fails again and again rests for a while, and whoever asks is told why.

The broker sees every end of every attempt on every node, so it decides. A failed attempt speaks against the place
where it was made only when the same task then completes at another place: a poison task, which dies everywhere,
never speaks against anybody. Three such tasks with no task completed there in between, and the place is
quarantined: a rank is told to rest, a node gets no grants and hands back what it has not started.

    well --3 tasks--> quarantined --time--> on probation --a task completes--> well
                           ^-------- 1 task, twice as long -------'

Ranks that die or do not start by themselves are the agent's to judge (core/muster.py); it tells which rest. A node
with more than half of its ranks at rest rests with them. All of this is soft: a new broker learns it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pyfi_hpc.core.jobs import Batch, End
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.model.budgets import ELSEWHERE
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import NodeName
from pyfi_hpc.model.messages import Recall, Rest

if TYPE_CHECKING:
    from pyfi_hpc.core.state import State

#: in place of a rank's number: the whole node
NODE = -1
#: places that are remembered, besides those that rest
_MARKS_MAX = 10_000


@dataclass(slots=True)
class Mark:
    """What speaks against one place."""

    #: (batch, offset) -> when it failed there, UTC; it completed elsewhere
    tasks: dict[tuple[int, int], float] = field(default_factory=dict)
    until: float = 0.0  #: end of the quarantine, monotonic seconds; past: on probation
    rest_s: float = 0.0  #: length of the last quarantine; 0: never yet
    reason: str = ""


#: (node's name with its allocation, rank), or (machine, NODE)
Place = tuple[str, int]


class Health:
    """Marks against places. Cost: nothing while nothing fails."""

    def __init__(self) -> None:
        self.marks: dict[Place, Mark] = {}

    def mark(self, place: Place, now: float) -> Mark:
        """The mark of a place. Allocations come and go: when marks are many, those not in force are dropped."""
        if len(self.marks) >= _MARKS_MAX and place not in self.marks:
            self.marks = {old: mark for old, mark in self.marks.items() if now < mark.until}
        return self.marks.setdefault(place, Mark())

    def quarantine_of(self, name: NodeName, now: float) -> Mark | None:
        """Of a whole node, if it is in quarantine."""
        mark = self.marks.get((machine(name), NODE)) if self.marks else None
        return mark if mark is not None and now < mark.until else None

    def next_until(self, now: float) -> float:
        """When the next quarantine ends."""
        return min((mark.until for mark in self.marks.values() if mark.until > now), default=float("inf"))

    def well(self, place: Place, now: float) -> None:
        """A task completed there: what was held against it is forgotten, also its probation."""
        mark = self.marks.get(place)
        if mark is not None and now >= mark.until:
            del self.marks[place]


def machine(name: str) -> str:
    """A node's name without its allocation: the machine that is broken is the same in the next one."""
    return name.partition("/")[0]


def completed(s: State, batch: Batch, node: Node, rank: int, lo: int, count: int, now: float, out: Effects) -> None:
    """Tasks completed on a rank: it is well, and where some of them had failed before may not be."""
    node.well_at[rank] = node.well_at[NODE] = now + s.utc_offset
    if s.health.marks:
        s.health.well((node.name, rank), now)
        s.health.well((machine(node.name), NODE), now)
    if batch.trouble:
        for offset in [k for k in batch.trouble if lo <= k < lo + count]:
            _compare(s, batch, offset, node, rank, now, out)


def _compare(s: State, batch: Batch, offset: int, node: Node, rank: int, now: float, out: Effects) -> None:
    """A task that failed before has completed here: was the other place to blame?"""
    assert batch.trouble is not None
    budgets = s.limits.budgets
    ends = [end for end in batch.trouble[offset].ends if end.cause in ELSEWHERE]
    places = {(end.node, end.rank) for end in ends}
    task = (int(batch.id), offset)
    blaming = [end for end in ends if budgets[end.cause].blames and end.rank >= 0]
    if blaming and len(places) == 1 and places != {(node.name, rank)}:
        _hold_against(s, (blaming[-1].node, blaming[-1].rank), blaming[-1], task, now, out)
    machines = {machine(end.node) for end in ends}
    blaming = [end for end in ends if budgets[end.cause].blames == "node"]
    if blaming and len(machines) == 1 and machines != {machine(node.name)}:
        _hold_against(s, (machine(blaming[-1].node), NODE), blaming[-1], task, now, out)


def _hold_against(s: State, place: Place, end: End, task: tuple[int, int], now: float, out: Effects) -> None:
    live = s.nodes.by_name.get(end.node)
    if live is not None and live.well_at.get(place[1], 0.0) > end.at:
        return  # it has completed others since
    mark = s.health.mark(place, now)
    if now < mark.until:
        return
    mark.tasks[task] = end.at
    needed = 1 if mark.rest_s else s.limits.quarantine_tasks
    # tasks of one bundle that failed together are one failure
    if len(set(mark.tasks.values())) >= needed:
        count = len(mark.tasks)
        text = f"{count} task{'s' * (count > 1)} failed there ({end.cause.name}) and completed elsewhere"
        quarantine(s, place, text, 0.0, now, out)


def quarantine(s: State, place: Place, reason: str, seconds: float, now: float, out: Effects) -> None:
    """Let a place rest; without ``seconds`` twice as long as the last time, up to a limit."""
    mark = s.health.mark(place, now)
    mark.rest_s = seconds or min(s.limits.quarantine_s_max, 2 * mark.rest_s or s.limits.quarantine_s)
    mark.until, mark.reason = now + mark.rest_s, reason
    mark.tasks.clear()
    name, rank = place
    for node in s.nodes.by_name.values():
        if rank == NODE and machine(node.name) == name and node.outstanding:
            out.send(node.peer, Recall(node.outstanding))
        elif rank != NODE and node.name == name:
            out.send(node.peer, Rest(rank, mark.rest_s, reason))


def ranks_rest(s: State, node: Node, now: float, out: Effects) -> None:
    """The agent has told which of its ranks rest: with more than half of them, the node does."""
    resting = [(until, why) for rank, until, why in node.resting if rank >= 0]
    total = len(resting) + node.rank_count
    place = (machine(node.name), NODE)
    if len(resting) < 2 or 2 * len(resting) <= total or s.health.quarantine_of(node.name, now):
        return
    seconds = max(until for until, _ in resting) - now
    if seconds > 0:
        quarantine(s, place, f"{len(resting)} of its {total} ranks rest: {resting[-1][1]}", seconds, now, out)


def usable(s: State, node: Node, now: float) -> bool:
    """Whether the node may get tasks."""
    return not node.draining and not s.health.quarantine_of(node.name, now)


def release(s: State, name: str, now: float, out: Effects) -> list[str]:
    """Lift by hand what rests on a node, and forget what was held against it; what was lifted."""
    lifted = []
    for place, mark in list(s.health.marks.items()):
        if machine(place[0]) == name:
            if now < mark.until:
                lifted.append("node" if place[1] == NODE else f"rank {place[1]}")
            del s.health.marks[place]
    for node in s.nodes.by_name.values():
        if machine(node.name) == name:
            for rank, _, _ in node.resting:
                lifted.append("start of ranks" if rank == NODE else f"rank {rank}")
                out.send(node.peer, Rest(rank, 0.0, "released"))
            node.resting = []
    return sorted(set(lifted))


def told(s: State, node: Node, now: float) -> dict[str, Any]:
    """What people are shown of a node's health; times are UTC."""
    mark = s.health.quarantine_of(node.name, now)
    ranks = [
        {"rank": rank, "reason": why, "until": until + s.utc_offset} for rank, until, why in node.resting if until > now
    ]
    return {
        "quarantined": mark.reason if mark else "",
        "quarantined_until": mark.until + s.utc_offset if mark else None,
        "resting": ranks,
    }


def asked(s: State, verb: str, body: bytes, now: float, out: Effects) -> tuple[bool, bytes]:
    """``node_release`` and ``node_quarantine``: the answer to who asked."""
    try:
        wanted = msgspec.msgpack.decode(body, type=dict[str, Any])
        name = machine(str(wanted["name"]))
        seconds = min(max(float(wanted.get("seconds", s.limits.quarantine_s)), 1.0), 1e9)
        reason = str(wanted.get("reason") or "by hand")[:200]
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
        return False, _encode({"code": "usage_error", "what": "the request names no node", "where": verb, "fix": ""})
    known = name in {machine(node.name) for node in s.nodes.by_name.values()} | {
        machine(place) for place, _ in s.health.marks
    }
    if not known:
        what = f"there is no node {name!r} here"
        return False, _encode({"code": "not_found", "what": what, "where": verb, "fix": "`pyfi info` lists nodes"})
    if verb == RELEASE:
        return True, _encode({"name": name, "lifted": release(s, name, now, out)})
    quarantine(s, (name, NODE), reason, seconds, now, out)
    return True, _encode({"name": name, "reason": reason, "until": now + seconds + s.utc_offset})


RELEASE, QUARANTINE = "node_release", "node_quarantine"
_encode = msgspec.msgpack.Encoder().encode
