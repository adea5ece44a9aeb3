"""Instances that faults are injected into; see README.md for which test is which row of the fault matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from instance_fixture import RANKS, Instance, box, healthy, instances, test_home
from load import heal

from pyfi_hpc.hosts import instance

__all__ = ["arena", "box", "healthy", "instances", "test_home"]


@pytest.fixture(scope="session")
def _arena(test_home: Path) -> Iterator[Instance]:
    made = Instance(test_home, "arena")
    try:
        yield made.up()
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
    box.start_ledger()
    if instance.find(box.settings, "broker") is None:
        box.start_broker()
    if instance.find(box.settings, "agent") is None:
        box.start_agent()
