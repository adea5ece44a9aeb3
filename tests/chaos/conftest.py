"""Instances that faults are injected into; see README.md for which test is which row of the fault matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from instance_fixture import RANKS, Instance, box, healthy, instances, test_home
from invariants import check_replay
from ledger_fixture import administer
from ledger_proxy import Proxy
from load import heal

from pyfi_hpc.hosts import instance
from pyfi_hpc.ledger.embedded import EmbeddedServer

__all__ = ["arena", "box", "healthy", "instances", "test_home"]


@pytest.fixture(scope="session")
def _arena(test_home: Path) -> Iterator[Instance]:
    made = Instance(test_home, "arena")
    try:
        yield made.up()
        check_replay(made)
    finally:
        made.down()


@pytest.fixture
def arena(_arena: Instance) -> Iterator[Instance]:
    """An instance for rough treatment; whatever a test has killed is started again after it."""
    _whole(_arena)
    yield _arena
    _whole(_arena)
    heal(_arena, RANKS)


def _whole(box: Instance) -> None:
    if not box.settings.ledger:
        box.start_ledger()
    if instance.find(box.settings, "broker") is None:
        box.start_broker()
    if instance.find(box.settings, "agent") is None:
        box.start_agent()


@pytest.fixture(scope="session")
def _behind(test_home: Path, ledger_server: EmbeddedServer) -> Iterator[tuple[Proxy, Instance]]:
    administer(ledger_server.url, "CREATE DATABASE behind TEMPLATE template_ledger")
    proxy = Proxy(ledger_server.url.replace("/pyfi?", "/behind?"), ledger_server.run)
    box = Instance(test_home, "behind", ledger=proxy.url)
    try:
        yield proxy, box.up()
    finally:
        box.down()
        proxy.close()
        administer(ledger_server.url, "DROP DATABASE behind WITH (FORCE)")


@pytest.fixture
def behind(_behind: tuple[Proxy, Instance]) -> Iterator[tuple[Proxy, Instance]]:
    """An instance that reaches its ledger through a faulty proxy."""
    proxy, box = _behind
    yield _behind
    proxy.refusing, proxy.latency_s, proxy.struck = False, 0.0, lambda: None
    proxy.let_go()
    _whole(box)
