"""D: the disks under the ledger are full, broken or slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disks import fill, small_disk
from faults import strace
from instance_fixture import Instance, until
from invariants import Stopwatch
from load import Load
from server import backends, commits_again, epoch, server_processes

from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.place import place_of

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="faults of disks are injected by root")


def something_big() -> bytes:
    """Nothing that the ledger has already: what is equal is stored once."""
    return os.urandom(4 << 20)


@contextmanager
def own_disk(box: Instance, part: str, megabytes: int) -> Iterator[Path]:
    """A part of the server's data folder lies on a small disk of its own."""
    box.crash_ledger()
    with small_disk(place_of(box.settings).data / part, megabytes) as folder:
        try:
            box.start_ledger()
            yield folder
        finally:
            if embedded.status(box.settings):
                box.crash_ledger()
    box.start_ledger()


def test_d8_the_disk_of_the_data_is_full(arena: Instance, tmp_path: Path) -> None:
    """Tables cannot grow: commits wait, the server lives on, and goes on by itself when there is space."""
    with own_disk(arena, "base", 128) as disk:
        before = arena.log("postgres").count("PANIC")
        load = Load(arena, tmp_path)
        ballast = fill(disk)
        value = something_big()
        big = arena.executor().submit("trouble.same", value)
        until(lambda: "No space left on device" in arena.log("broker"), 15.0, "the broker has noticed")
        time.sleep(1.0)
        assert not big.done()
        ballast.unlink()
        watch = Stopwatch()
        assert big.result(30) == value
        watch.tell("space again", 2)
        load.ends_well(again_max=0)
        assert arena.log("postgres").count("PANIC") == before


def test_d9_the_disk_of_the_log_is_full(arena: Instance, tmp_path: Path) -> None:
    """No room for write-ahead log: Postgres ends itself, again and again; what was acknowledged is found."""
    with own_disk(arena, "pg_wal", 256) as disk:
        panics = arena.log("postgres").count("PANIC")
        load = Load(arena, tmp_path)
        before = epoch(arena)
        ballast = fill(disk)
        big: list[tuple[bytes, Any]] = []

        def ended() -> bool:
            # segments that were there before take some of them, how many depends on what ran before
            if all(one.done() for _, one in big):
                value = something_big()
                big.append((value, arena.executor().submit("trouble.same", value)))
            return arena.log("postgres").count("PANIC") > panics

        until(ended, 60.0, "Postgres has ended itself")
        ballast.unlink()
        watch = Stopwatch()
        arena.start_ledger()
        commits_again(arena, before, watch, "space again", 10)
        assert all(one.result(30) == value for value, one in big)
        load.ends_well(again_max=0)


def test_d10_a_sync_fails_once(arena: Instance, tmp_path: Path) -> None:
    """EIO for one fdatasync: Postgres believes nothing any more and recovers; so does the broker."""
    panics = arena.log("postgres").count("PANIC")
    load = Load(arena, tmp_path)
    before, watch = epoch(arena), Stopwatch()
    with strace(backends(arena), "error=EIO:when=1", also_children=False) as trace:
        commits_again(arena, before, watch, "one EIO", 10)
        assert "INJECTED" in trace.read_text()
    load.ends_well(again_max=0)
    assert arena.log("postgres").count("PANIC") > panics


def test_d10_every_sync_fails(arena: Instance, tmp_path: Path) -> None:
    """EIO for good: Postgres cannot even recover, and ends or hangs; on a disk that works all is there."""
    load = Load(arena, tmp_path)
    before, panics = epoch(arena), arena.log("postgres").count("PANIC")
    with strace(server_processes(arena), "error=EIO:when=1+"):
        until(lambda: arena.log("postgres").count("PANIC") > panics, 20.0, "Postgres believes nothing any more")
        gave_up = time.monotonic() + 5.0  # version 18 tries to recover for ever
        until(lambda: embedded.status(arena.settings) is None or time.monotonic() > gave_up, 10.0, "it has given up")
        assert load.error is None, repr(load.error)
        if embedded.status(arena.settings) is not None:
            arena.crash_ledger()
    arena.start_ledger()
    watch = Stopwatch()
    commits_again(arena, before, watch, "the disk works again", 10)
    load.ends_well(again_max=0)


@pytest.mark.parametrize("milliseconds", [10, 100])
def test_d11_a_slow_disk(arena: Instance, tmp_path: Path, milliseconds: int) -> None:
    """Each sync takes longer: groups grow by themselves, no session is given up."""
    before = epoch(arena)
    with strace(server_processes(arena), f"delay_enter={milliseconds}000") as trace:
        watch = Stopwatch()
        Load(arena, tmp_path).ends_well(again_max=0)
        watch.tell(f"200 calls of 20 ms on two ranks, {milliseconds} ms a sync", 4)
        assert "DELAYED" in trace.read_text()
    assert epoch(arena) == before
