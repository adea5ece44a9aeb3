"""The backlog: what work there is, by socket, and which nodes are there for it; and nodes that are given back.

For who asks for allocations (``core/elastic.py``), which runs where the batch system is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pyfi_hpc.core import health
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.core.state import State
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.elastic import Backlog, NodeTold, Work
from pyfi_hpc.model.ids import SocketId

BACKLOG, GIVE_BACK = "backlog", "give_back"


def told(s: State, now: float) -> Backlog:
    """Cost: a look at each class, each socket with work and each node."""
    found: dict[int, Work] = {}

    def of(number: int) -> Work:
        if number not in found:
            spec = s.functions.get(number)
            name = spec.name if spec else f"socket {number}"
            found[number] = Work(name, 0, 0, 0, s.durations.of(number))
        return found[number]

    for key, ready, room in s.queue.backlog():
        work = of(key.socket)
        work.ready += ready
        work.room += room
    for number, count in s.queue.running.items():
        if count:
            of(number).granted = count
    for socket, work in found.items():
        if limit := s.queue.concurrency.get(SocketId(socket), 0):  # which all classes of the socket share
            work.room = min(work.room, max(0, limit - work.granted))
    held = "the ledger is away" if s.ledger_down else "the broker has just started" if s.recover_until else ""
    nodes = [_node(s, node, now) for node in s.nodes.by_name.values()]
    return Backlog(held, list(found.values()), nodes)


def _node(s: State, node: Node, now: float) -> NodeTold:
    last = node.well_at.get(health.NODE)
    still_s = None if last is None else max(0.0, now + s.utc_offset - last)
    usable = health.usable(s, node, now)
    return NodeTold(node.name, node.allocation, node.rank_count, node.outstanding, usable, still_s)


def asked(s: State, _verb: str, _body: bytes, now: float, _out: Effects) -> tuple[bool, bytes]:
    """The verb ``backlog``."""
    return True, _encode(told(s, now))


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
_returned = msgspec.msgpack.Decoder(_Returned)
