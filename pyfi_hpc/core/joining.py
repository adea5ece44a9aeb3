"""An agent says hello: new, back on another connection, or with what it holds from an earlier broker.

A grant that both sides know goes on. What the agent has lost on the way goes out again; what nobody wants any more it
is told to drop; what it still runs of an earlier epoch is adopted while the broker recovers.
"""

from __future__ import annotations

from pyfi_hpc.core import fits, follow, gangs, holds, items, settle
from pyfi_hpc.core.jobs import Batch
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.state import State
from pyfi_hpc.core.walltime import NEVER
from pyfi_hpc.model import inventory
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import BatchId, GrantId, NodeName, Peer
from pyfi_hpc.model.states import Cause, TaskState


def join(s: State, peer: Peer, hello: m.Hello, now: float, out: Effects) -> bool:
    """An agent says hello; False: denied."""
    name = NodeName(f"{hello.name}/{hello.allocation}" if hello.allocation else hello.name)
    known = s.nodes.by_name.get(name)
    if known is not None and known.incarnation == hello.incarnation:
        s.nodes.move(known, peer)
        known.lease_until = now + s.limits.lease_s
        _compare(s, known, hello.held, now, out)
        holds.take_back(s, [known], out)
        return True
    if known is not None:
        text = f"an agent named {name} is alive here"
        out.reply(peer, m.Denied("name_in_use", text, "it is let in when the other's lease has ended"))
        return False
    node = Node(
        name, peer, hello.incarnation, hello.allocation, hello.cores, now + s.limits.lease_s, now,
        now + hello.ends_in_s if hello.ends_in_s > 0.0 else NEVER, hello.rank_count,
    )  # fmt: skip
    node.stock.inventory = inventory.decode(hello.inventory)
    s.nodes.join(node)
    adoption = follow.Adoption(s, node)
    for held in sorted(hello.held, key=lambda held: held.grant):  # what others follow was granted before them
        _adopt(s, node, held, adoption)
    _forget_unknown(s, node, hello.held, out)
    _mount_held(s, node, out)
    holds.take_back(s, [node], out)
    return True


def _mount_held(s: State, node: Node, out: Effects) -> None:
    """What was told on the old connection may have been lost: tell where the code of its grants lives."""
    node.mounted = {grant.batch.code for grant in node.grants.values()}
    for code in node.mounted:
        out.send(node.peer, s.mounts[code])


def _compare(s: State, node: Node, held: list[m.Held], now: float, out: Effects) -> None:
    """After a lost connection: what the agent no longer holds was lost on the way and goes out again."""
    told = {entry.grant for entry in held}
    for grant in [g for g in node.grants.values() if g.id not in told]:
        batch = grant.batch
        if grant.gang is not None:
            gangs.lost(s, grant, Cause.RELEASED, False, now, out)
            continue
        offsets = s.nodes.take_back(grant)
        s.queue.ended(batch, len(offsets))
        s.queue.freed(grant, len(offsets))
        for lo, hi in settle.runs([k for k in offsets if batch.states[k] == TaskState.RUNNING]):
            settle.release(s, batch, lo, hi)
    _forget_unknown(s, node, held, out)
    _mount_held(s, node, out)


def _adopt(s: State, node: Node, held: m.Held, adoption: follow.Adoption) -> None:
    """A grant of an earlier epoch whose tasks run on: they are not started again."""
    batch = s.book.batches.get(BatchId(held.batch))
    if batch is None or not s.recover_until or held.grant in s.nodes.grants:
        return
    if held.here < held.total:
        _regroup(s, node, held, batch, adoption)
        return
    lo, hi = held.lo, held.lo + held.count
    if not (0 <= lo < hi <= batch.count and len(held.left) == held.count):
        return
    left = bytearray(held.left)
    for at in range(held.count):
        left[at] = 1 if left[at] and adoption.goes_on(batch, lo + at, held) else 0
        if left[at]:
            batch.states[lo + at] = TaskState.RUNNING
    if any(left):
        s.queue.started(_taken_over(s, node, held, batch, left))


def _taken_over(s: State, node: Node, held: m.Held, batch: Batch, left: bytearray) -> Grant:
    needs = items.held(held)
    width = fits.width(needs, node.rank_count) if needs else 1
    grant = Grant(
        GrantId(held.grant), batch, held.lo, held.count, held.attempt, node, left, sum(left), 0, needs, width, held.here
    )
    s.nodes.add(grant)
    return grant


def _regroup(s: State, node: Node, held: m.Held, batch: Batch, adoption: follow.Adoption) -> None:
    """A part of a gang on several nodes that has begun: the gang goes on once all of its nodes are back."""
    if not held.begun or held.count != 1 or held.left != b"\1" or held.lo >= batch.count:
        return
    s.parts[held.grant] = node, held
    leader = held.leader or held.grant
    parts = [(one, told) for one, told in s.parts.values() if leader in (told.leader, told.grant)]
    parts.sort(key=lambda part: part[1].grant != leader)
    first = parts[0][1]
    alike = {(told.batch, told.lo, told.attempt, told.total) for _, told in parts}
    here = all(s.nodes.by_name.get(one.name) is one for one, _ in parts)
    whole = here and len(alike) == 1 and sum(told.here for _, told in parts) == held.total
    if not (whole and first.grant == leader and adoption.goes_on(batch, held.lo, first)):
        return
    batch.states[held.lo] = TaskState.RUNNING
    needs = items.held(first)
    gang = gangs.Gang(seats={} if needs is not None and needs.step else None)
    for one, told in parts:
        del s.parts[told.grant]
        grant = _taken_over(s, one, told, batch, bytearray(told.left))
        grant.gang = gang
        gang.grants.append(grant)
        s.queue.started(grant, grant is gang.grants[0])


def dissolve(s: State, out: Effects) -> None:
    """The recovery is over: gangs that are not whole are ended, and go out again."""
    for node, held in s.parts.values():
        if s.nodes.by_name.get(node.name) is node:
            out.send(node.peer, m.Cancel(0, held.grant, held.lo, -1))
    s.parts.clear()


def _forget_unknown(s: State, node: Node, held: list[m.Held], out: Effects) -> None:
    """Tell an agent to drop what it holds and nobody wants."""
    for entry in held:
        if entry.grant in s.parts:
            continue
        grant = s.nodes.grants.get(GrantId(entry.grant))
        if grant is None or grant.node is not node or (grant.lo, grant.count) != (entry.lo, entry.count):
            out.send(node.peer, m.Cancel(0, entry.grant, entry.lo, -1))
        else:
            for at in range(entry.count):
                if entry.left[at] and not grant.left[at]:
                    out.send(node.peer, m.Cancel(0, entry.grant, entry.lo + at, 1))
