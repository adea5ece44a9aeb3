"""Items: tasks become RUNNING under a grant of one node, and that as the message that tells the node."""

from __future__ import annotations

from pyfi_hpc.core import fits, walltime
from pyfi_hpc.core.jobs import Batch
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.messages import Gang, Held, Item, Link
from pyfi_hpc.model.packed import cut
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.model.terms import Needs, chosen, decode

#: of each task of an item, the results that it takes
Inputs = list[list[bytes | Link]]


def grant(
    s: State, node: Node, batch: Batch, lo: int, hi: int, attempt: int, inputs: Inputs, now: float, out: Effects,
    gang: Gang | None = None, first: bool = True,
) -> Item:  # fmt: skip
    """Give tasks ``lo`` to ``hi`` of a batch whose payload is in memory to a node.

    ``gang``: to the ranks there that run the task with others; ``first``: the task is not with other nodes yet.
    """
    mount = s.mounts.get(batch.code)
    spec = s.functions.get(batch.socket)
    assert batch.payload is not None and batch.offsets is not None and mount is not None and spec is not None
    assert not batch.job.on_hold
    if batch.code not in node.mounted:
        node.mounted.add(batch.code)
        out.send(node.peer, mount)
    batch.states[lo:hi] = bytes([TaskState.RUNNING]) * (hi - lo)
    terms, needs, width = _terms(node, batch)
    made = s.nodes.grant(node, batch, lo, hi, attempt, needs, width, gang.here if gang else 1)
    s.queue.started(made, first)
    offsets, payload = cut(batch.offsets, batch.payload, lo, hi)
    made.size = len(payload) + sum(map(size_of, inputs))
    node.outstanding_bytes += made.size
    if batch.job.waiters and gang is None:
        node.leads.append((made, 0))
        s.nodes.leading[node.name] = node
    trouble = batch.trouble.get(lo) if batch.trouble else None  # who has any is alone in a grant
    return Item(
        made.id, batch.id, batch.job.id, batch.first + lo, lo, hi - lo, attempt, batch.code, spec.function,
        batch.time_limit_s, offsets, payload, inputs, terms, gang,
        needs_s=walltime.told_s(s, node, batch, trouble, now), state=trouble.state if trouble is not None else b"",
    )  # fmt: skip


def _terms(node: Node, batch: Batch) -> tuple[bytes, Needs | None, int]:
    """What the tasks get on this node, for the agent and to be counted: the first of their ways that has room."""
    if not batch.terms:
        return b"", None, 1
    terms = decode(batch.terms)
    way = terms.ways[0] if terms.ranks else fits.way_for(terms.ways, node.stock, node.rank_count)[0]
    return chosen(terms, way), way, fits.width(way, node.rank_count)


def held(told: Held) -> Needs | None:
    """What tasks have that an agent told of after a reconnect; None: a rank, and nothing else."""
    try:
        return decode(told.terms) if told.terms else None
    except ValueError:
        return None


def size_of(values: list[bytes | Link]) -> int:
    """Bytes of the results that are known."""
    return sum(len(data) for data in values if isinstance(data, bytes))
