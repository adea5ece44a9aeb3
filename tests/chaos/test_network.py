"""E by a proxy: latency, answers that are swallowed, and rubbish on the port, in the middle of a load.

Links that are down, go one way or are gone are real ones in test_hosts.py."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from instance_fixture import Instance, until
from load import Load, wired
from wire import Wire

from pyfi_hpc.adapters import access as access_file


@contextmanager
def far_node(arena: Instance, name: str) -> Iterator[tuple[Wire, Instance]]:
    """A second node behind a wire, its two ranks joined; it is gone afterwards."""
    with wired(arena, name) as (wire, far):
        far.start_agent(2, joined=False)
        until(lambda: ranks(arena) == 4, 30.0, "the far ranks have joined")
        yield wire, far
        wire.heal()
        far.kill(far.pid("agent"))
        until(lambda: len(arena.nodes()) == 1, 15.0, "the far node is forgotten")


def ranks(arena: Instance) -> int:
    return sum(node["ranks"] for node in arena.nodes())


def test_e3_answers_are_swallowed(arena: Instance, tmp_path: Path) -> None:
    """The broker hears the node, TCP takes every answer, none arrives, past the lease: the node ends what it runs."""
    with far_node(arena, "deaf") as (wire, _):
        load = Load(arena, tmp_path, count=300)
        wire.down.clear()
        load.reached(200)
        until(lambda: ranks(arena) == 2, 12.0, f"the node's lease has ended: {arena.nodes()}")
        wire.heal()
        load.ends_well(again_max=100)
        until(lambda: ranks(arena) == 4, 30.0, f"the far node is back: {arena.nodes()}")


def test_e4_a_slow_link(arena: Instance, tmp_path: Path) -> None:
    """One megabit and 50 ms a chunk: slower, and nobody is taken for dead."""
    with far_node(arena, "slow") as (wire, _):
        wire.latency_s, wire.bytes_s = 0.05, 125_000.0
        load = Load(arena, tmp_path, count=400, seconds=0.05)
        while len(load.got) < load.count and load.error is None:
            assert ranks(arena) == 4
        load.ends_well(again_max=0)


def test_e6_rubbish_on_the_port(arena: Instance, tmp_path: Path) -> None:
    """Random bytes, a port scan, 500 mute connections: the load does not notice, the broker keeps its size."""
    access = access_file.read(arena.settings)
    broker = psutil.Process(arena.pid("broker"))
    fds, memory = broker.num_fds(), broker.memory_info().rss
    load = Load(arena, tmp_path)
    dice = random.Random(6)
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((access.host, access.port))) for _ in range(500)]
        for _ in range(100):
            with socket.create_connection((access.host, access.port)) as end:
                end.sendall(os.urandom(dice.randrange(1, 5000)))
        for one in idle[::2]:
            one.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f")  # the beginning of a greeting, and no more
        load.ends_well(again_max=0)
    until(lambda: broker.num_fds() <= fds + 2, 20.0, f"descriptors: {fds} before, {broker.num_fds()} now")
    assert broker.memory_info().rss < memory + (100 << 20)
