"""Followers: tasks that lie at a node before the results that they take are there, because it is making them.

    a chain 1 -> 2 -> 3 without followers     run 1, commit, grant 2, run 2, commit, grant 3, run 3, commit
                        with them             grant 1, 2, 3; run 1, run 2, run 3; commits go on beside it

Granted when nothing else is ready, and beside what the node wants to hold, so that no ready task waits for them. To the
broker a follower is RUNNING under a grant, like any other; only its need still misses results. It counts no sooner than
what it was made from: agents tell outcomes in the order in which they came about, so those of its makers are settled
first, or in the same group. Whatever ends a maker in another way sends its followers back: the agent does so by
itself, and an outcome that comes all the same while a result is missing is a task handed back.
"""

from __future__ import annotations

from array import array

from pyfi_hpc.core import items
from pyfi_hpc.core.jobs import Batch, Follow, Need
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import GrantId, JobId
from pyfi_hpc.model.messages import Grant as GrantMessage
from pyfi_hpc.model.messages import Held, Item
from pyfi_hpc.model.states import TaskState


def fill(s: State, node: Node, now: float, out: Effects) -> None:
    """Grant to a node what takes results of the tasks that it holds, and what takes theirs, while there is room.

    Cost: a look at each task of each grant whose job is waited for, once.
    """
    made: list[Item] = []
    told_bytes = node.outstanding_bytes
    while node.leads and (room := _room(node)) > 0:
        for batch, lo, hi in _runs(_next(s, node, room), s.limits.grant_tasks_max, s.limits.grant_bytes_max):
            if node.outstanding_bytes >= s.limits.node_bytes_max:
                break  # these come when they are ready
            made.append(_grant(s, node, batch, lo, hi, now, out))
            if node.outstanding_bytes - told_bytes >= s.limits.grant_bytes_max:
                out.send(node.peer, GrantMessage(s.epoch, made))
                made, told_bytes = [], node.outstanding_bytes
    if made:
        out.send(node.peer, GrantMessage(s.epoch, made))


def _room(node: Node) -> int:
    """A node whose tasks are long wants no more than it has ranks: a hop does not count there, and a broker that starts
    again finds more of what runs under grants that it can judge."""
    return node.capacity - node.followers if node.capacity > node.rank_count else 0


def _grant(s: State, node: Node, batch: Batch, lo: int, hi: int, now: float, out: Effects) -> Item:
    inputs = [_inputs(s, batch, offset) for offset in range(lo, hi)]
    node.followers += hi - lo
    for offset in range(lo, hi):
        _need(batch, offset).follow.granted = True  # type: ignore[union-attr]
    return items.grant(s, node, batch, lo, hi, 1, inputs, now, out)


def _next(s: State, node: Node, room: int) -> list[tuple[Batch, int]]:
    """Tasks that can follow those of the first grant that was not looked at; of many, those that there is room for."""
    grant, at = node.leads.popleft()
    batch = grant.batch
    waiters = batch.job.waiters
    found: list[tuple[Batch, int]] = []
    for position in range(at, grant.count if grant.open and waiters else 0):
        index = batch.first + grant.lo + position
        if not grant.left[position] or index not in waiters:
            continue
        for waiter, offset in waiters[index]:
            if len(found) < room and _led(s, waiter, offset, (batch.job.id, index), grant, grant.lo + position):
                found.append((waiter, offset))
        if len(found) >= room:
            node.leads.appendleft((grant, position + 1))
            break
    return found


def _led(s: State, batch: Batch, offset: int, key: tuple[JobId, int], grant: Grant, maker: int) -> bool:
    """A node makes one of the results that a task waits for; whether it makes all that are missing."""
    need = batch.waiting.get(offset) if batch.waiting else None
    if need is None or key not in need.missing or batch.states[offset] != TaskState.BLOCKED:
        return False
    follow = need.follow
    if follow is None or follow.node is not grant.node:
        follow = need.follow = Follow(grant.node)
    follow.makers[key] = grant.id, maker
    return (
        len(follow.makers) >= len(need.missing)
        and batch.payload is not None
        and not batch.job.on_hold
        # who needs more than a rank goes where that is
        and not batch.terms
        and not (batch.trouble and offset in batch.trouble)
        # it would take the place of one that can run
        and not (s.queue.concurrency.get(batch.socket) or batch.job.at_once)
        and _all_here(s, need, follow)
    )


def _all_here(s: State, need: Need, follow: Follow) -> bool:
    size = 0
    for key in set(need.slots):
        if key not in need.missing:
            value = s.graph.values.get(key)
            if value is None:
                return False
            size += len(value.data)
            continue
        if key not in follow.makers:
            return False
        number, offset = follow.makers[key]
        grant = s.nodes.grants.get(number)
        if grant is None or not grant.left[offset - grant.lo]:
            return False
    return size <= s.limits.grant_bytes_max


def _inputs(s: State, batch: Batch, offset: int) -> list[bytes | tuple[int, int]]:
    """What a follower takes: the result where it is known, else where on the node it is made."""
    need = _need(batch, offset)
    assert need.follow is not None
    found: list[bytes | tuple[int, int]] = []
    for key in need.slots:
        if key in need.missing:
            found.append(need.follow.makers[key])
        else:
            found.append(s.graph.values[key].data)
    return found


def _runs(tasks: list[tuple[Batch, int]], tasks_max: int, bytes_max: int) -> list[tuple[Batch, int, int]]:
    """Tasks that lie side by side in their batch go together."""
    found: list[tuple[Batch, int, int]] = []
    size = 0
    for batch, offset in tasks:
        own = _payload_bytes(batch, offset)
        last, lo, hi = found[-1] if found else (None, 0, 0)
        if last is batch and hi == offset and hi - lo < tasks_max and size + own <= bytes_max:
            found[-1] = batch, lo, offset + 1
            size += own
        else:
            found.append((batch, offset, offset + 1))
            size = own
    return found


def _payload_bytes(batch: Batch, offset: int) -> int:
    assert batch.offsets is not None
    start, end = array("I", batch.offsets[4 * offset : 4 * offset + 8])
    return end - start


def _need(batch: Batch, offset: int) -> Need:
    assert batch.waiting is not None
    return batch.waiting[offset]


def misses(batch: Batch, offset: int) -> bool:
    """Whether results that a task took are not those in the ledger, or not yet: its own outcome does not count."""
    need = batch.waiting.get(offset) if batch.waiting else None
    return need is not None and (bool(need.missing) or need.void)


def over(batch: Batch, lo: int, hi: int) -> bool:
    """The node has ended tasks; whether the outcomes of some do not count."""
    for offset in range(lo, hi):
        need = batch.waiting.get(offset) if batch.waiting else None
        if need is not None:
            need.unfollow()
    return any(misses(batch, offset) for offset in range(lo, hi))


def taken_back(batch: Batch, offset: int) -> bool:
    """A task is at no node any more; whether it waits for results."""
    need = batch.waiting.get(offset) if batch.waiting else None
    if need is None:
        return False
    need.unfollow()
    need.void = False
    return bool(need.missing)


class Adoption:
    """Which tasks of an earlier broker's grants go on at one node.

    A task that was made, or is being made, from results of others there goes on only if those are what the ledger has:
    settled under the very grant that it took them from, or going on themselves.
    """

    def __init__(self, s: State, node: Node) -> None:
        self._s = s
        self._node = node
        #: (batch, offset) -> grant of those that go on
        self._grants: dict[tuple[int, int], int] = {}

    def goes_on(self, batch: Batch, offset: int, held: Held) -> bool:
        if batch.attempt(offset) != held.attempt:
            return False
        state = batch.states[offset]
        if state not in (TaskState.PENDING, TaskState.BLOCKED) or not self._has_its_inputs(batch, offset, held):
            return False
        self._grants[batch.id, offset] = held.grant
        return True

    def _has_its_inputs(self, batch: Batch, offset: int, held: Held) -> bool:
        need = batch.waiting.get(offset) if batch.waiting else None
        if need is None:
            return True
        makers = {slot: (grant, maker) for at, slot, grant, maker in held.takes if at == offset}
        if any(slot >= len(need.slots) or not self._counts(need.slots[slot], *makers[slot]) for slot in makers):
            return False
        # the others it was given by a broker, so the ledger has them
        need.missing = {need.slots[slot] for slot in makers if need.slots[slot] not in self._s.made_by}
        if need.missing:
            made = {need.slots[slot]: (GrantId(grant), maker) for slot, (grant, maker) in makers.items()}
            need.follow = Follow(self._node, made, granted=True)
            self._node.followers += 1
        return True

    def _counts(self, key: tuple[JobId, int], grant: int, offset: int) -> bool:
        """Whether a result that was taken from a task here is the one in the ledger, or becomes it."""
        if key in self._s.made_by:
            return self._s.made_by[key] == grant
        job = self._s.book.jobs.get(key[0])
        place = job.locate(key[1]) if job is not None else None
        return place is not None and place[1] == offset and self._grants.get((place[0].id, offset)) == grant
