"""E: links that are down one way, slow, half open, and rubbish on the port, in the middle of a load."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from instance_fixture import Instance, until
from invariants import Stopwatch
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


@pytest.mark.parametrize(("seconds", "again_max"), [(2.0, 0), (8.0, 200)])
def test_e1_e2_the_link_is_down(arena: Instance, tmp_path: Path, seconds: float, again_max: int) -> None:
    """C4: for less than the lease nothing runs again; for more, what the node held does, its late ends are stale."""
    with far_node(arena, "far") as (wire, _):
        load = Load(arena, tmp_path, count=400)
        wire.stall()
        time.sleep(seconds)
        wire.heal()
        load.ends_well(again_max)
        until(lambda: ranks(arena) == 4, 30.0, f"the far node is back: {arena.nodes()}")


@pytest.mark.parametrize("way", ["up", "down"])
def test_e3_one_way_is_silent(arena: Instance, tmp_path: Path, way: str) -> None:
    """Only one direction is dead, past the lease: both sides come to the same end, and all goes on when it heals."""
    with far_node(arena, f"half-{way}") as (wire, _):
        load = Load(arena, tmp_path, count=400)
        (wire.up if way == "up" else wire.down).clear()
        load.reached(300)
        time.sleep(7.0)
        wire.heal()
        load.ends_well(again_max=200)
        until(lambda: ranks(arena) == 4, 30.0, f"the far node is back: {arena.nodes()}")


def test_e4_a_slow_link(arena: Instance, tmp_path: Path) -> None:
    """One megabit and 50 ms a chunk: slower, and nobody is taken for dead."""
    with far_node(arena, "slow") as (wire, _):
        incarnations = {node["name"]: node.get("since") for node in arena.nodes()}
        wire.latency_s, wire.bytes_s = 0.05, 125_000.0
        load = Load(arena, tmp_path, count=400, seconds=0.05)
        load.ends_well(again_max=0)
        assert {node["name"]: node.get("since") for node in arena.nodes()} == incarnations
        assert ranks(arena) == 4


def test_e5_a_connection_that_is_only_half_there(arena: Instance, tmp_path: Path) -> None:
    """The node is gone and no packet says so: its lease ends, its work goes elsewhere, no descriptor leaks."""
    broker = psutil.Process(arena.pid("broker"))
    before = broker.num_fds()
    with far_node(arena, "gone") as (wire, far):
        load = Load(arena, tmp_path, count=300)
        wire.stall()
        watch = Stopwatch()
        far.kill(far.pid("agent"))
        until(lambda: len(arena.nodes()) == 1, 20.0, "the broker has given the node up")
        watch.tell("silent node noticed", 5)
        load.ends_well(again_max=100)
        far.start_agent(2, joined=False)
        wire.heal()
        until(lambda: ranks(arena) == 4, 30.0, "the node is back")
    until(lambda: broker.num_fds() <= before + 2, 20.0, f"descriptors: {before} before, {broker.num_fds()} now")


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
