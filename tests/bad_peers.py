"""Peers that should not speak, or speak rubbish: raw ZeroMQ clients with any keys, and frames of all bad kinds."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import zmq
from instance_fixture import Instance

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.wire import codec


class Logged:
    """What a daemon's log says from now on."""

    def __init__(self, box: Instance, name: str = "broker") -> None:
        self._box, self._name = box, name
        self._start = len(box.log(name))

    def says(self, *words: str) -> None:
        deadline = time.monotonic() + 8.0
        while not all(word in self.text for word in words):
            assert time.monotonic() < deadline, f"{words} not in {self._name}'s log: {self.text}"
            time.sleep(0.02)

    @property
    def text(self) -> str:
        return self._box.log(self._name)[self._start :]


def address(box: Instance) -> tuple[str, int]:
    found = access_file.read(box.settings)
    return found.host, found.port


@contextmanager
def dealer(box: Instance, role: str = "client", **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """A ZeroMQ client with the keys of this role; options replace or add to what belongs to it."""
    found = access_file.read(box.settings)
    context = zmq.Context()
    link = context.socket(zmq.DEALER)
    link.linger = 0
    link.curve_serverkey = options.pop("server", found.broker_public).encode()
    keys = (found.client_public, found.client_secret) if role == "client" else (found.agent_public, found.agent_secret)
    link.curve_publickey, link.curve_secretkey = (key.encode() for key in options.pop("keys", keys))
    if identity := options.pop("identity", b""):
        link.setsockopt(zmq.ROUTING_ID, identity)
    link.connect(found.endpoint)
    try:
        yield link
    finally:
        context.destroy(linger=0)


def hello(role: str = "client", **changes: Any) -> m.Hello:
    return m.Hello(PROTOCOL_VERSION, role, changes.pop("name", "test"), "incarnation", **changes)


def answer(link: zmq.Socket[bytes], limit_s: float = 5.0) -> list[Any]:
    if not link.poll(limit_s * 1000):
        return []
    frame = link.recv()
    try:
        return list(codec.TO_CLIENT.decode(frame))
    except msgspec.ValidationError:
        return list(codec.TO_AGENT.decode(frame))


def welcome(link: zmq.Socket[bytes], first: m.Hello) -> None:
    link.send(codec.encode([first]))
    assert isinstance(answer(link)[0], m.Welcome)


def unheard(link: zmq.Socket[bytes]) -> None:
    """Nobody answers on this connection."""
    link.send(codec.encode([hello()]), zmq.NOBLOCK)
    assert not link.poll(400)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


GARBAGE = {
    "nothing": b"",
    "random": os.urandom(10_000),
    "not a list": b"\x01",
    "no such message": msgspec.msgpack.encode([["Launch", 1]]),
    "too few fields": msgspec.msgpack.encode([["Submit", b"x"]]),
    "too many fields": msgspec.msgpack.encode([["Beat", 1, [], 0.0, 0, 0, 7]]),
    "wrong types": msgspec.msgpack.encode([["Hello", "one", 2, 3, 4]]),
    "deep": nested(100_000),
    "deep inside": b"\x91\x92\xa4Beat" + nested(50_000),
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "bytes of 4 GB": b"\x91\x95\xa3Ask\x01\xa1x\xc6\xff\xff\xff\xff",
    "a million messages": b"\xdd" + struct.pack(">I", 1_000_000) + b"\x92\xa4Beat\x01" * 1_000_000,
    "a number of 64 bits": msgspec.msgpack.encode([["Watch", (1 << 64) - 1, [0, -1], True]]),
    "a negative job": msgspec.msgpack.encode([["Watch", -1, [0, -1], True]]),
    "a negative cursor": msgspec.msgpack.encode([["Watch", 1, [-(1 << 63), -1], True]]),
    "text that is no UTF-8": b"\x91\x95\xa5Hello\x01\xa2\xff\xfe\xa1x\xa1y",
    "a big body": codec.encode([m.Ask(1, "info", bytes(2 << 20))]),
}


def submit(**changes: Any) -> m.Submit:
    payload = msgspec.msgpack.encode([[1], {}])
    fields: dict[str, Any] = {
        "key": os.urandom(16), "number": 0, "first": 0, "count": 1, "last": True, "socket": "trouble.same",
        "offsets": offsets_of([payload]), "payload": payload, **changes,
    }  # fmt: skip
    return m.Submit(**fields)


def edges(*rows: tuple[int, int, int, int]) -> bytes:
    return msgspec.msgpack.encode(list(rows))


BAD_BATCHES = {
    "no tasks": {"count": 0},
    "too many tasks": {"count": 70_000, "offsets": bytes(4 * 70_001), "payload": b""},
    "a count that is not true": {"count": 5},
    "no offsets": {"offsets": b""},
    "offsets of another length": {"offsets": offsets_of([b"x", b"y"])},
    "offsets that fall": {"count": 2, "offsets": struct.pack("<3I", 0, 9, 5), "payload": bytes(5)},
    "offsets beyond the end": {"offsets": struct.pack("<2I", 0, 1 << 31)},
    "a short key": {"key": b"k"},
    "a first batch that is not": {"number": 3, "first": 77},
    "a wrong answer to failure": {"on_failure": 2},
    "edges that are none": {"edges": b"\xff\x00rubbish"},
    "nested edges": {"edges": nested(100_000)},
    "an edge from nowhere": {"edges": edges((5, 0, 0, 0))},
    "an edge to itself": {"edges": edges((0, 0, 0, 0))},
    "a job that is not there": {"edges": edges((0, 0, 1 << 40, 0))},
    "a slot far away": {"edges": edges((0, 60_000, 1, 0))},
    "huge edges": {"edges": b"\xdd" + struct.pack(">I", 1 << 31)},
    "negative edges": {"edges": edges((-1, -1, -1, -1))},
    "arguments over the limit": {"offsets": struct.pack("<2I", 0, 9 << 20), "payload": bytes(9 << 20)},
}
