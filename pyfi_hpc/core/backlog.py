"""The backlog: what work there is, by socket, and which nodes are there for it; and nodes that are given back.

For who asks for allocations (``core/elastic.py``), which runs where the batch system is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pyfi_hpc.core import fits, health
from pyfi_hpc.core.fits import Stock
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.core.state import State
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.elastic import Backlog, NodeTold, Shape, Work
from pyfi_hpc.model.ids import SocketId
from pyfi_hpc.model.terms import decode

BACKLOG, EXPECT, GIVE_BACK = "backlog", "expect", "give_back"
#: allocations that are remembered before they are here; the oldest goes first: it may have been cancelled
_EXPECTED_MAX = 64


def told(s: State, now: float) -> Backlog:
    """Cost: a look at each class, each grant and each node."""
    found: dict[tuple[SocketId, bytes], Work] = {}
    stocks = [(str(node.name), node.stock, node.rank_count) for node in s.nodes.by_name.values() if node.rank_count]

    def of(socket: SocketId, terms: bytes) -> Work:
        if (socket, terms) not in found:
            found[socket, terms] = _work(s, socket, terms, stocks)
        return found[socket, terms]

    for key, ready, room in s.queue.backlog():
        work = of(key.socket, key.terms)
        work.ready += ready
        work.room += room
    busy: dict[tuple[SocketId, bytes], int] = {}
    for grant in s.nodes.grants.values():  # a gang has one on each of its nodes
        at = grant.batch.socket, grant.batch.terms
        busy[at] = busy.get(at, 0) + grant.open * grant.members
    for (socket, terms), ranks in busy.items():
        work = of(socket, terms)
        work.granted = -(-ranks // work.ranks)
    for (socket, _), work in found.items():
        if limit := s.queue.concurrency.get(socket, 0):  # which all classes of the socket share
            work.room = min(work.room, max(0, limit - s.queue.running.get(socket, 0)))
    held = "the ledger is away" if s.ledger_down else "the broker has just started" if s.recover_until else ""
    nodes = [_node(s, node, now) for node in s.nodes.by_name.values()]
    return Backlog(held, list(found.values()), nodes)


def _work(s: State, socket: SocketId, terms: bytes, stocks: list[tuple[str, Stock, int]]) -> Work:
    spec = s.functions.get(socket)
    name = spec.name if spec else f"socket {socket}"
    mean_s = s.durations.of(socket)
    if not terms:
        return Work(name, 0, 0, 0, mean_s)
    ways = decode(terms).ways
    never = bool(fits.too_much(ways, stocks))
    gpus = min(way.gpu_thousandths for way in ways)
    first = ways[0]
    return Work(name, 0, 0, 0, mean_s, first.members, first.cores, first.exclusive, gpus, terms.hex(), never)


def _node(s: State, node: Node, now: float) -> NodeTold:
    last = node.well_at.get(health.NODE)
    still_s = None if last is None else max(0.0, now + s.utc_offset - last)
    usable = health.usable(s, node, now)
    return NodeTold(node.name, node.allocation, node.rank_count, node.outstanding, usable, still_s)


class _Asked(msgspec.Struct):
    """Who asks for allocations says what they would have."""

    shapes: list[Shape] | None = None


_asked = msgspec.msgpack.Decoder(_Asked)


def asked(s: State, _verb: str, body: bytes, now: float, _out: Effects) -> tuple[bool, bytes]:
    """The verb ``backlog``."""
    try:
        shapes = _asked.decode(body).shapes
    except (msgspec.MsgspecError, ValueError):
        words = {"code": "usage_error", "what": "the request names no shapes", "where": BACKLOG, "fix": ""}
        return False, _encode(words)
    if shapes is not None:
        s.to_come = shapes
    return True, _encode(told(s, now))


class _Expected(msgspec.Struct):
    allocation: str
    shape: Shape


def expect(s: State, verb: str, body: bytes, _now: float, _out: Effects) -> tuple[bool, bytes]:
    """The verb ``expect``: an allocation was asked for. What it could give is not refused until all its nodes are here,
    who tell themselves what they have. Soft: a new broker does not know it."""
    try:
        wanted = _expected.decode(body)
    except (msgspec.MsgspecError, ValueError):
        return False, _encode(_wrong("usage_error", "the request names no allocation and its shape", verb))
    s.expected[wanted.allocation] = wanted.shape
    while len(s.expected) > _EXPECTED_MAX:
        del s.expected[next(iter(s.expected))]
    arrived(s, wanted.allocation)
    return True, _encode({})


def arrived(s: State, allocation: str) -> None:
    """A node of an allocation is here, perhaps the last one."""
    if allocation in s.expected:
        nodes = [node for node in s.nodes.by_name.values() if node.allocation == allocation]
        if sum(node.rank_count for node in nodes) >= s.expected[allocation].ranks:
            del s.expected[allocation]


class _Returned(msgspec.Struct):
    allocation: str


def give_back(s: State, verb: str, body: bytes, _now: float, out: Effects) -> tuple[bool, bytes]:
    """The verb ``give_back``: the agents of an allocation drain. What has begun there ends there."""
    try:
        wanted = _returned.decode(body).allocation
    except (msgspec.MsgspecError, ValueError):
        return False, _encode(_wrong("usage_error", "the request names no allocation", verb))
    nodes = [node for node in s.nodes.by_name.values() if wanted and node.allocation == wanted]
    if not nodes:
        return False, _encode(_wrong("not_found", f"no node of allocation {wanted!r} is here", verb))
    for node in nodes:
        node.draining = True  # at once: what was granted until its agent has heard of it would come back
        out.reply(node.peer, m.Stop(True, "given back"))
    return True, _encode({"nodes": [node.name for node in nodes]})


def _wrong(code: str, what: str, where: str) -> dict[str, Any]:
    return {"code": code, "what": what, "where": where, "fix": ""}


_encode = msgspec.msgpack.Encoder().encode
_expected = msgspec.msgpack.Decoder(_Expected)
_returned = msgspec.msgpack.Decoder(_Returned)
