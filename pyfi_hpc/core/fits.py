"""What fits where: needs of tasks against what nodes have, in whole tasks.

The broker counts what each node has given away to tasks that need more than a core, and grants only what fits; which
cores and GPUs it is, the agent chooses (core/placing.py). Plain tasks are not counted: they fill what ranks are left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pyfi_hpc.model.elastic import UNTOLD, Shape
from pyfi_hpc.model.inventory import NOTHING, Inventory
from pyfi_hpc.model.terms import Needs, words


@dataclass(slots=True)
class Stock:
    """What one node has, and what of it is given away."""

    inventory: Inventory = NOTHING
    #: ranks that have a task with needs, or are lent to one; and how many such tasks
    ranks: int = 0
    tasks: int = 0
    memory_bytes: int = 0
    gpu_thousandths: int = 0
    named: dict[str, int] = field(default_factory=dict)

    def give(self, needs: Needs, width: int, members: int, tasks: int) -> None:
        """So many tasks start, of so many ranks here, each as wide; negative: they have ended."""
        self.tasks += tasks
        members *= tasks
        self.ranks += members * width
        self.memory_bytes += members * needs.memory_bytes
        self.gpu_thousandths += members * needs.gpu_thousandths
        for name, count in needs.named:
            self.named[name] = self.named.get(name, 0) + members * count

    def room(self, needs: Needs, rank_count: int) -> int:
        """How many ranks with these needs can start now, on a node with so many ranks. 0 if a label is missing."""
        if not self.may_hold(needs):
            return 0
        room = (rank_count - self.ranks) // width(needs, rank_count)
        have = self.inventory
        if needs.memory_bytes and have.memory_bytes:
            room = min(room, (have.memory_bytes - self.memory_bytes) // needs.memory_bytes)
        if needs.gpu_thousandths:
            room = min(room, _gpu_room(len(have.gpus), self.gpu_thousandths, needs.gpu_thousandths))
        for name, count in needs.named:
            room = min(room, (dict(have.named).get(name, 0) - self.named.get(name, 0)) // count)
        return max(0, room)

    def may_hold(self, needs: Needs) -> bool:
        return set(needs.labels) <= set(self.inventory.labels)


def _gpu_room(count: int, given: int, wanted: int) -> int:
    """How many more ranks get what they want of so many GPUs, in thousandths of one; a part of one lies on one."""
    if wanted >= 1000:
        return (1000 * count - given) // wanted
    each = 1000 // wanted
    return each * count - -(-given // wanted)


def width(needs: Needs, rank_count: int) -> int:
    """How many ranks of a node one rank of the task takes: one a core, or all."""
    return max(1, rank_count) if needs.exclusive else needs.cores


def way_for(ways: tuple[Needs, ...], stock: Stock, rank_count: int) -> tuple[Needs, int]:
    """The first way to run a task that this node has room for, and how many such tasks can start; 0: none can."""
    for way in ways:
        room = stock.room(way, rank_count) // way.members
        if room > 0:
            return way, room
    return ways[0], 0


def free(stock: Stock, rank_count: int) -> str:
    """What is not given to tasks with needs, for people."""
    have, parts = stock.inventory, [f"{rank_count - stock.ranks} of {rank_count} ranks"]
    if have.gpus:
        parts.append(f"{len(have.gpus) - stock.gpu_thousandths / 1000:g} of {len(have.gpus)} GPUs")
    if have.memory_bytes and stock.memory_bytes:
        parts.append(f"{(have.memory_bytes - stock.memory_bytes) / 2**30:.3g} of {have.memory_bytes / 2**30:.3g} GiB")
    parts += [f"{count - stock.named.get(name, 0)} of {count} {name}" for name, count in have.named]
    return ", ".join(parts) + " not given to tasks with needs"


def nearest(needs: Iterable[Needs], stocks: Iterable[tuple[str, Stock, int]]) -> str:
    """Of nodes that are too small or lack something, the one that comes nearest, in words.

    ``stocks``: names of nodes, what they have, and how many ranks.
    """
    found: list[tuple[int, float, str]] = []
    for way in needs:
        for name, stock, ranks in stocks:
            lacks = _lacks(way, stock.inventory, ranks)
            if lacks:
                text = f"{name} has {', '.join(text for text, _ in lacks)}"
                found.append((len(lacks), sum(short for _, short in lacks), text))
    return min(found)[2] if found else ""


def _lacks(needs: Needs, have: Inventory, ranks: int) -> list[tuple[str, float]]:
    """What is missing, and which part of what is wanted that is."""
    lacks = [(f"no label {label!r}", 1.0) for label in needs.labels if label not in have.labels]

    def compare(wanted: float, had: float, text: str) -> None:
        if wanted > had:
            lacks.append((text, 1.0 - had / wanted))

    compare(needs.cores, ranks, f"{ranks} ranks of one core each")
    gpus = len(have.gpus)
    compare(needs.gpu_thousandths, 1000 * gpus, f"{gpus} GPU" + "s" * (gpus != 1))
    if have.memory_bytes:
        compare(needs.memory_bytes, have.memory_bytes, f"{have.memory_bytes / 2**30:.3g} GiB")
    named = dict(have.named)
    for name, count in needs.named:
        compare(count, named.get(name, 0), f"{named.get(name, 0)} {name}")
    return lacks


def impossible(needs: Needs, stocks: list[tuple[str, Stock, int]]) -> bool:
    """Whether no node of these, were it idle, could hold one rank of it, or all together not all of them."""
    total = 0
    for _, stock, ranks in stocks:
        total += Stock(stock.inventory).room(needs, ranks)
        if total >= needs.members:
            return False
    return True


def seats(shape: Shape, cores: int, gpu_thousandths: int) -> int:
    """How many ranks that each take so many cores, and so much of a GPU, an allocation of this shape has room for."""
    on_node = shape.ranks_per_node // cores
    if gpu_thousandths:
        on_node = min(on_node, _gpu_room(shape.gpus, 0, gpu_thousandths))
    return on_node * (shape.ranks // shape.ranks_per_node)


def may_come(needs: Needs, shape: Shape) -> bool:
    """Whether an allocation of this shape may do, as far as is known before its nodes are seen."""
    return seats(shape, width(needs, shape.ranks_per_node), needs.gpu_thousandths) >= needs.members


def too_much(ways: tuple[Needs, ...], stocks: list[tuple[str, Stock, int]], coming: Collection[Shape] = ()) -> str:
    """Why none of these ways to run a task can ever be met by the nodes, nor by the allocations that may come; "": one
    can, or nothing is known of either."""
    if any(may_come(way, shape) for way in ways for shape in coming):
        return ""
    if not (stocks or coming) or not all(impossible(way, stocks) for way in ways):
        return ""
    text = "no node can ever give " + ", nor ".join(words(way) for way in ways)
    near = nearest(ways, stocks)
    text = f"{text}: the nearest, {near}" if near else text
    return f"{text}; an allocation that may come has {_largest(ways, coming)}" if coming else text


def _largest(ways: tuple[Needs, ...], coming: Collection[Shape]) -> str:
    """Of allocations that may come, the one with most GPUs, if all ways want some, or cores; in words."""
    want_gpus = all(way.gpu_thousandths for way in ways)
    most = max(coming, key=lambda shape: (shape.gpus if want_gpus else 0, shape.ranks_per_node, shape.ranks))
    nodes, ranks = most.ranks // most.ranks_per_node, most.ranks_per_node
    gpus = f" and {most.gpus} GPU{'s' * (most.gpus != 1)}" if most.gpus != UNTOLD else ""
    return f"{nodes} node{'s' * (nodes != 1)} of {ranks} rank{'s' * (ranks != 1)}{gpus}"
