"""Walltime as something that is given out: a task that cannot end before its allocation does is not started there.

What a task needs is learned, by function, commit and size hint, from those that ended::

    nothing known   in the first half of a node's time it starts as if it were short; in the second half it is probed:
                    so many at once on each node that an eighth of its ranks have such tasks, at least one
    known           0.95 quantile of those that completed, times 1.1 and half of that again shared by their number
                    (n tasks: 1.1 + 0.5 / n), because few say little. In the first tenth of a node's time it is enough
                    that it could just fit: nothing better will come on that node
    another commit  as if one task had taken that long
    a time limit    no more than that: it ends by then; where nothing is known and it fits, nothing is probed
    cut off         a task that the walltime ended after t seconds needs 1.25 t the next time, and counts as one that
                    took so long; while none has completed, nothing is known but that the others need as much
    it goes on      a function that returns Continue ends when it wants to: it needs the least time that was left when
                    one did so, or for which one had run, if that is less

A node without an end takes everything; there none of this costs anything.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pyfi_hpc.core.queue import ClassKey, key_of
from pyfi_hpc.core.sketch import FIRST_S, IN_FRONT, RUNNING, Sketch
from pyfi_hpc.model.ids import CodeId, SocketId
from pyfi_hpc.model.records import DurationsLearned

if TYPE_CHECKING:
    from pyfi_hpc.core.jobs import Batch, Trouble
    from pyfi_hpc.core.nodes import Node
    from pyfi_hpc.core.state import State

NEVER = float("inf")
#: of an outcome's tasks, so many are looked at
_SAMPLES_MAX = 32
_QUANTILE = 0.95
_FACTOR, _DOUBT = 1.1, 0.5
_CUT_FACTOR = 1.25
#: of a task that runs of which nothing is known, seconds
_GUESS_S = 1.0
#: of a node's ranks, those that may have tasks of which nothing is known, in the second half of its time
_PROBES = 8
#: so much of a node's time is left in its first tenth
_FRESH = 0.9
#: a leg that took no longer has done nothing: the next one waits for another allocation, seconds
_LEG_S = 1.0

#: socket, code, size class
Kind = tuple[SocketId, CodeId, int]


class Needs(NamedTuple):
    """Seconds that tasks of a kind need, and in which they could just end."""

    most: float
    least: float


@dataclass(slots=True)
class Learned:
    """What is known of one kind of task."""

    sketch: Sketch = field(default_factory=Sketch)
    #: tasks that completed; the sketch has a sample of them, and those that were cut off
    completed: int = 0
    #: what one needs at least that returns Continue; 0: none has
    lead_s: float = 0.0
    #: of the sketch when it was written last
    written: int = 0
    _needs: Needs | None = None
    _most_s: float = 0.0

    def add(self, seconds: Sequence[float], completed: int) -> None:
        self.sketch.add(seconds)
        self.completed += completed
        self._needs, self._most_s = None, 0.0

    def needs(self) -> Needs:
        if self.lead_s:
            return Needs(self.lead_s, self.lead_s)
        if self._needs is None:
            self._needs = self._of(_FACTOR + _DOUBT / self.completed)
        return self._needs

    def most_s(self) -> float:
        if self.lead_s:
            return NEVER  # it ends when it wants to
        self._most_s = self._most_s or self.sketch.quantile(IN_FRONT)
        return self._most_s

    def as_another(self) -> Needs:
        """What another commit says."""
        return self.needs() if self.lead_s else self._of(_FACTOR + _DOUBT)

    def _of(self, factor: float) -> Needs:
        return Needs(self.sketch.quantile(_QUANTILE) * factor, self.sketch.at_least(_QUANTILE))

    def __bool__(self) -> bool:
        return bool(self.lead_s or self.completed)


class Walltimes:
    """What was learned, by kind. Soft: after a restart it is what the ledger had last."""

    def __init__(self, learned: list[DurationsLearned], now: float, every_s: float) -> None:
        self.kinds: dict[Kind, Learned] = {}
        #: socket and size class -> the kind of which something was learned last
        self._latest: dict[tuple[SocketId, int], Learned] = {}
        self._changed: dict[Kind, Learned] = {}
        self._write_at = now + every_s
        for record in learned:
            found = Learned(Sketch(record.counts), record.completed, record.lead_s)
            found.written = found.sketch.total
            self.kinds[record.socket, record.code, record.size] = found
            self._latest[record.socket, record.size] = found

    def of(self, batch: Batch) -> Learned:
        """What is known of a batch's tasks, to be added to."""
        kind = batch.socket, batch.code, batch.size
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = Learned()
        self._changed[kind] = found
        self._latest[kind[0], kind[2]] = found
        return found

    def needs(self, kind: Kind, time_limit_s: float = 0.0) -> Needs | None:
        """What tasks of a kind need that have this time limit, 0: none; None: nothing is known."""
        found = self.kinds.get(kind)
        if not found:
            found = self._latest.get((kind[0], kind[2]))
            if not found:
                return None
            needs = found.as_another()
        else:
            needs = found.needs()
        if 0.0 < time_limit_s < needs.most:
            return Needs(time_limit_s, min(needs.least, time_limit_s))
        return needs

    def most_s(self, kind: Kind, time_limit_s: float = 0.0) -> float:
        """What most tasks of a kind take at most, to be put in front of others; inf: nothing is known."""
        found = self.kinds.get(kind) or self._latest.get((kind[0], kind[2]))
        return min(found.most_s() if found else NEVER, time_limit_s or NEVER)

    def rest_s(self, kind: Kind, age_s: float) -> float:
        """How much longer nearly every task of a kind takes at most that has run for so long."""
        found = self.kinds.get(kind) or self._latest.get((kind[0], kind[2]))
        return found.sketch.rest(RUNNING, age_s) if found else max(0.0, _GUESS_S - age_s)

    def at_least_s(self, kind: Kind) -> float:
        """Of a kind of which nothing is known: what those needed that were cut off."""
        found = self.kinds.get(kind)
        return found.sketch.quantile(1.0) if found is not None else 0.0

    def due(self, now: float, utc: float, every_s: float) -> list[DurationsLearned]:
        """What is to be written: kinds of which an eighth of what is known is new, at most once in so long.

        Kinds that take next to no time are learned anew in next to no time.
        """
        if not self._changed or now < self._write_at:
            return []
        self._write_at = now + every_s
        found = []
        for (socket, code, size), known in self._changed.items():
            total = known.sketch.total
            is_short = not known.lead_s and known.sketch.quantile(1.0) <= FIRST_S
            if is_short or (known.written and abs(total - known.written) * 8 < total):
                continue
            known.written = total
            counts = known.sketch.packed()
            found.append(DurationsLearned(socket, code, size, known.completed, known.lead_s, counts, utc))
        self._changed.clear()
        return found


# --- learning -------------------------------------------------------------------------------------------


def completed(s: State, batch: Batch, durations: bytes, count: int) -> None:
    """So many tasks of a batch completed. Cost: 2 us, and 0.2 us for each of at most 32 that took long."""
    every = -(-count // _SAMPLES_MAX)
    s.walltimes.of(batch).add(array("f", durations)[::every], count)


def cut_off(s: State, batch: Batch, trouble: Trouble, seconds: float) -> None:
    """The end of an allocation ended a task that had run for so long."""
    trouble.needs_s = max(trouble.needs_s, _CUT_FACTOR * seconds)
    s.walltimes.of(batch).add([_CUT_FACTOR * seconds], 0)


def goes_on(s: State, batch: Batch, trouble: Trouble, node: Node, seconds: float, now: float) -> None:
    """A task returned Continue after so long. Here again only if there is time for another such leg."""
    known, left = s.walltimes.of(batch), left_s(s, node, now)
    if seconds >= _LEG_S or not known.lead_s:
        known.lead_s = min(known.lead_s or NEVER, max(_LEG_S, min(seconds, left)))
    trouble.stays = seconds >= _LEG_S and left >= 2.0 * seconds


# --- the rule -------------------------------------------------------------------------------------------


def left_s(s: State, node: Node, now: float) -> float:
    """Seconds in which a task that starts on a node now has to end."""
    return node.ends_at - now - s.limits.end_margin_s


def room_on(s: State, node: Node, key: ClassKey, now: float) -> int:
    """How many tasks of a class may be granted to a node now, as far as its end goes."""
    most = s.limits.grant_tasks_max
    if node.ends_at == NEVER:
        return most
    left = left_s(s, node, now)
    if left <= 0.0:
        return 0
    total = node.ends_at - node.joined_at
    needs = s.walltimes.needs((key.socket, key.code, key.size), key.time_limit_s)
    if needs is not None:
        return most if left >= needs.most or (left >= needs.least and left >= _FRESH * total) else 0
    if s.walltimes.at_least_s((key.socket, key.code, key.size)) > left:
        return 0
    if _unknown_s(s, node, key.time_limit_s, now):
        return most
    return max(0, max(1, node.rank_count // _PROBES) - _probes(s, node))


def told_s(s: State, node: Node, batch: Batch, trouble: Trouble | None, now: float) -> float:
    """For the node, which looks again when a rank is free: in what a task could just end, or half of the node's time
    where nobody knows; 0: it is one of those that are tried, or the node has no end. It is never more than what the
    task was granted by, or it would be handed back and granted again."""
    if node.ends_at == NEVER:
        return 0.0
    needs = s.walltimes.needs((batch.socket, batch.code, batch.size), batch.time_limit_s)
    least = needs.least if needs is not None else _unknown_s(s, node, batch.time_limit_s, now)
    return max(least, trouble.needs_s if trouble is not None else 0.0)


def _unknown_s(s: State, node: Node, time_limit_s: float, now: float) -> float:
    """What a task needs of which nobody knows it, if it is not to count as tried; 0: it is."""
    left, half = left_s(s, node, now), (node.ends_at - node.joined_at) / 2
    if 0.0 < time_limit_s <= left:
        return time_limit_s
    return half if left >= half else 0.0


def could_take(s: State, node: Node, other: Node, now: float) -> bool:
    """Whether a node has time for anything that another holds: else asking for it back would have no end."""
    if node.ends_at == NEVER:
        return True
    keys = {key_of(grant.batch) for grant in other.grants.values()}
    return all(room_on(s, node, key, now) > 0 for key in keys) and not any(
        grant.attempt > 1 for grant in other.grants.values()
    )


def _probes(s: State, node: Node) -> int:
    """Tasks that a node holds of which nothing is known."""
    return sum(
        grant.open for grant in node.grants.values()
        if s.walltimes.needs((grant.batch.socket, grant.batch.code, grant.batch.size)) is None
    )  # fmt: skip


# --- in words -------------------------------------------------------------------------------------------


def refuses(s: State, node: Node, batch: Batch, offset: int, now: float) -> bool:
    """Whether a node does not get a task because of its end."""
    trouble = batch.trouble.get(offset) if batch.trouble else None
    if trouble is not None and trouble.needs_s > left_s(s, node, now):
        return True
    return room_on(s, node, key_of(batch), now) <= 0


def reasons(s: State, batch: Batch, offset: int, nodes: list[Node], name: str, now: float) -> tuple[list[str], str]:
    """Why none of these nodes gets a task, and what would start it."""
    key = key_of(batch)
    trouble = batch.trouble.get(offset) if batch.trouble else None
    needs = s.walltimes.needs((key.socket, key.code, key.size), key.time_limit_s)
    cut = trouble.needs_s if trouble is not None else 0.0
    because = [", ".join(f"{node.name} ends in {max(0.0, node.ends_at - now):.0f} s" for node in nodes[:_NAMED_MAX])]
    if len(nodes) > _NAMED_MAX:
        because[0] += f", {len(nodes) - _NAMED_MAX} others no later than in {max(n.ends_at for n in nodes) - now:.0f} s"
    if cut:
        because.append(f"an allocation ended it before: it starts where {cut:.0f} s are left")
    if needs is None:
        least = s.walltimes.at_least_s((key.socket, key.code, key.size))
        if least > max(left_s(s, node, now) for node in nodes):
            because.append(f"others of {name} were ended too: it starts where {least:.0f} s are left")
            return because, f"It would start with {least + s.limits.end_margin_s:.0f} s left"
        because.append(f"nobody knows how long {name} takes: late in an allocation only some of its ranks try it")
        return because, "It would start when one that is tried now has completed"
    because.append(f"{name} needs {needs.most:.3g} s, {_source(s, key)}")
    return because, f"It would start with {max(needs.most, cut) + s.limits.end_margin_s:.0f} s left"


def _source(s: State, key: ClassKey) -> str:
    found = s.walltimes.kinds.get((key.socket, key.code, key.size))
    if found is not None and found.lead_s:
        return "which it had left when it returned Continue"
    if found is None or not found.completed:
        return "judged by another commit"
    text = f"judged by {found.completed} that completed"
    return text + ", or by its time limit" if key.time_limit_s else text


#: nodes that are named one by one
_NAMED_MAX = 3
