"""Gangs: tasks that several ranks of one MPI world run together, on one node or several.

    placed --Grant to each node--> gathering --Gathered by all, Go--> running --outcomes of all nodes--> settled

Each node gets a grant of its own for the same task. A node gathers ranks as they fall idle and says so; when all
have, the broker tells all who they are. What the leader returned is the outcome, once all have ended well; the first
bad end, or the loss of a node, is the whole gang's: the others are ended, and the task is tried again as its budget
says. A gang on one node starts by itself.

A step is a gang whose ranks run nothing: the function runs on the leader's node alone, and has programs started on the
ranks (runner/step.py). So what its leader's node says is the outcome, and then the others are told to give their ranks
back. Its ranks need not share an MPI world, only an allocation.

A gang is granted when enough ranks are idle, on as few nodes as have them; for the first that finds too few they are
kept (core/reserve.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pyfi_hpc.core import fits, health, items, settle
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import Pick
from pyfi_hpc.core.state import State
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import GrantId
from pyfi_hpc.model.states import Cause
from pyfi_hpc.model.terms import Needs, decode


@dataclass(slots=True, eq=False)
class Gang:
    """One task on several nodes."""

    #: its grants, the leader's first
    grants: list[Grant] = field(default_factory=list)
    #: ranks that wait, by grant
    gathered: dict[GrantId, list[int]] = field(default_factory=dict)
    #: when ranks are thought to wait, by grant, monotonic seconds
    expected: dict[GrantId, float] = field(default_factory=dict)
    #: of a step: its ranks by grant, with their cores and GPUs; None: it is none
    seats: dict[GrantId, m.Seats] | None = None
    outcome: tuple[Grant, m.Outcome] | None = None
    failure: tuple[Grant, m.Outcome] | None = None


#: ranks that start anew are there after so long, or are told again, seconds
_RENEWAL_S = 30.0
#: a node and how many ranks of the gang are there
Share = tuple[Node, int]


def place(
    s: State, needs: Needs, now: float, may: Callable[[Node], bool] = lambda node: True
) -> tuple[str, list[Share]] | None:
    """Nodes with idle ranks enough for a gang, in one world, of those that may. Cost: a look at each node.

    The world of a step is its allocation, and "".
    """

    def room(node: Node) -> int:
        width = fits.width(needs, node.rank_count)
        return min(node.stock.room(needs, node.rank_count), node.vacant // width)

    for world, shares in _fitting(s, needs, now, may, room):
        return "" if needs.step else world, (_spread if needs.spread else _packed)(shares, needs.ranks)
    return None


def worlds_for(s: State, needs: Needs, now: float, may: Callable[[Node], bool]) -> list[list[Share]]:
    """Of each world that could run a gang, were all its ranks idle, the nodes with what they could have."""
    return [shares for _, shares in _fitting(s, needs, now, may, lambda node: _room_ever(node, needs))]


def _room_ever(node: Node, needs: Needs) -> int:
    return fits.Stock(node.stock.inventory).room(needs, node.rank_count)


def _fitting(
    s: State, needs: Needs, now: float, may: Callable[[Node], bool], room_on: Callable[[Node], int]
) -> Iterator[tuple[str, list[Share]]]:
    """Worlds with room for all ranks of a gang, and their nodes with the room of each."""
    worlds: dict[str, list[Share]] = {}
    for node in s.nodes.by_name.values():
        worlds_here = worlds_of(node, needs)
        busy = node.draining or now < node.renewed_until or not worlds_here
        if busy or not health.usable(s, node, now) or not may(node):
            continue
        room = room_on(node)
        for world, count in worlds_here.items():
            if room > 0 and count:
                worlds.setdefault(world, []).append((node, min(room, count)))
    for world, shares in worlds.items():
        if sum(room for _, room in shares) >= needs.ranks:
            yield world, shares


# --- its life ------------------------------------------------------------------------------------------


def worlds_of(node: Node, needs: Needs) -> dict[str, int]:
    """Within what a task may run on several nodes, and how many ranks of it are on this one.

    Only Slurm starts a step on several nodes; it numbers its jobs, and nobody else does.
    """
    if not needs.step:
        return node.worlds
    in_slurm = node.allocation.partition("@")[0].isdigit()
    return {node.allocation if in_slurm else node.name: node.rank_count} if node.rank_count else {}


def _packed(shares: list[Share], ranks: int) -> list[Share]:
    """On as few nodes as possible; of those that hold all of it, the one with most ranks that are idle now."""
    whole = [share for share in shares if share[1] >= ranks]
    if whole:
        node, _ = max(whole, key=lambda share: share[0].vacant)
        return [(node, ranks)]
    found: list[Share] = []
    for node, room in sorted(shares, key=lambda share: -share[1]):
        found.append((node, min(room, ranks)))
        ranks -= found[-1][1]
        if not ranks:
            break
    return found


def _spread(shares: list[Share], ranks: int) -> list[Share]:
    """On as many nodes as possible, as evenly as their room allows."""
    counts = [0] * len(shares)
    while ranks:
        for at, (_, room) in enumerate(shares):
            if ranks and counts[at] < room:
                counts[at] += 1
                ranks -= 1
    return [(node, count) for (node, _), count in zip(shares, counts, strict=True) if count]


def start(
    s: State, pick: Pick, world: str, shares: list[Share], inputs: items.Inputs, now: float, out: Effects
) -> list[Grant]:
    """Grant one task to all of its nodes."""
    gang = Gang(seats=None if world else {})
    total = sum(count for _, count in shares)
    for node, count in shares:
        told = m.Gang(world, count, total, gang.grants[0].id if gang.grants else 0)
        item = items.grant(
            s, node, pick.batch, pick.lo, pick.lo + 1, pick.attempt, inputs, now, out, told, first=not gang.grants
        )
        made = s.nodes.grants[GrantId(item.grant)]
        if len(shares) > 1:
            made.gang = gang
        gang.grants.append(made)
        out.send(node.peer, m.Grant(s.epoch, [item]))
    return gang.grants


def gathered(s: State, node: Node, message: m.Gathered, now: float, out: Effects) -> None:
    """A node has its part together, or thinks to have it at some time."""
    if message.grant in s.parts:
        return  # it says so again
    grant = s.nodes.grants.get(GrantId(message.grant))
    if grant is None or grant.node is not node or grant.gang is None:
        out.send(node.peer, m.Cancel(0, message.grant, 0, -1))  # it was taken back while it was on its way
        return
    gang = grant.gang
    if gang.failure is not None or (gang.outcome is not None and gang.seats is not None):
        out.send(node.peer, m.Cancel(0, grant.id, grant.lo, 1))  # it has been told, and the word may have been lost
        return
    gang.expected[grant.id] = now + message.in_s
    if not message.ranks:
        _tell_when(gang, now, out)
        return
    gang.gathered[grant.id] = message.ranks
    if gang.seats is not None and message.seats is not None:
        message.seats.node = str(node.name).partition("/")[0]
        gang.seats[grant.id] = message.seats
    if len(gang.gathered) == len(gang.grants):  # also again, where the word was lost
        roster = [rank for part in gang.grants for rank in gang.gathered[part.id]]
        for part in gang.grants:
            seats = [gang.seats[one.id] for one in gang.grants if one.id in gang.seats] if gang.seats else []
            out.send(part.node.peer, m.Go(part.id, roster, seats=seats if part is gang.grants[0] else []))


def _tell_when(gang: Gang, now: float, out: Effects) -> None:
    """When the last node is ready: until then the ranks of the others can work."""
    if len(gang.expected) == len(gang.grants):
        in_s = max(0.0, max(gang.expected.values()) - now)
        for part in gang.grants:
            if part.id not in gang.gathered:
                out.send(part.node.peer, m.Go(part.id, [], in_s))


def ended(s: State, grant: Grant, o: m.Outcome, now: float, out: Effects) -> None:
    """A node's part has ended, or its node is lost."""
    gang = grant.gang
    assert gang is not None
    if gang.outcome is not None and gang.seats is not None:
        pass  # its leader has ended: the others only give their ranks back
    elif o.causes[0] not in (Cause.NONE, Cause.CONTINUED) and gang.failure is None:
        gang.failure = grant, o
        for part in gang.grants:
            if part.open:
                out.send(part.node.peer, m.Cancel(0, part.id, part.lo, 1))
    elif grant is gang.grants[0]:
        gang.outcome = grant, o
        for part in gang.grants if gang.seats is not None else ():
            if part.open:
                out.send(part.node.peer, m.Cancel(0, part.id, part.lo, 1))
    if any(part.open for part in gang.grants):
        return
    found = gang.failure or gang.outcome
    assert found is not None
    s.queue.ended(grant.batch, 1)
    settle.decide(s, *found, now, out)


def lost(s: State, grant: Grant, cause: Cause, ran: bool, now: float, out: Effects) -> None:
    """A node is lost, or does not know of its part; if that did not run, nothing is charged."""
    s.nodes.take_back(grant)
    s.queue.freed(grant, 1)
    cause = cause if ran else Cause.RELEASED
    ended(s, grant, settle.silence(grant, grant.lo, cause), now, out)


def renew(s: State, now: float, out: Effects) -> None:
    """Where gangs wait because ranks have left their world, let a world start anew."""
    for key in s.gangs_short:
        needs = decode(key.terms)
        if needs.step:
            continue  # to it a rank that has left its world is as good as any
        groups: dict[str, list[Node]] = {}
        for node in s.nodes.by_name.values():
            if health.usable(s, node, now):
                groups.setdefault(node.allocation or node.name, []).append(node)
        if any(now < node.renewed_until for group in groups.values() for node in group) or may_ever(s, needs):
            continue
        for group in groups.values():
            room = sum(fits.Stock(node.stock.inventory).room(needs, node.rank_count) for node in group)
            if room >= needs.ranks:
                for node in group:
                    node.renewed_until = now + _RENEWAL_S
                    out.send(node.peer, m.Renew())
                break


def may_ever(s: State, needs: Needs) -> bool:
    """Whether one world has enough ranks, were they all idle."""
    totals: dict[str, int] = {}
    for node in s.nodes.by_name.values():
        room = fits.Stock(node.stock.inventory).room(needs, node.rank_count)
        for world, count in worlds_of(node, needs).items():
            totals[world] = totals.get(world, 0) + min(room, count)
    return any(total >= needs.ranks for total in totals.values())
