"""Ledger, broker and agent started side by side, and what is left when one of them cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from instance_fixture import Instance, until

from pyfi_hpc.errors import BrokerHeld, PostgresMissing, PyfiError, SettingsError
from pyfi_hpc.hosts import instance
from pyfi_hpc.hosts.spawn import Part

Make = Callable[..., Instance]

JOIN_S = 40.0


def start(box: Instance, ranks: int) -> list[str]:
    """Names of the parts that were told."""
    told: list[Part] = []
    with box._marked():
        instance.start(box.settings, ranks, told.append)
    return [part.name for part in told]


def daemons(box: Instance) -> list[str]:
    return [words for words in box.processes().values() if "pyfi_hpc.hosts" in words]


def test_the_parts_start_side_by_side(instances: Make) -> None:
    """Ranks join though the agent was there before the broker; a second start is refused and disturbs nothing."""
    box = instances()
    assert start(box, 2) == ["ledger", "broker"]
    assert instance.wait_for_ranks(box.settings, box.nodes, 2, JOIN_S) == 2
    before = box.pid("broker"), box.pid("agent")
    with pytest.raises(BrokerHeld, match="is running already"):
        start(box, 2)
    assert (box.pid("broker"), box.pid("agent")) == before


@pytest.mark.parametrize(
    ("given", "error"), [({"pg_bin": "/nowhere"}, PostgresMissing), ({"bind": "203.0.113.1"}, SettingsError)]
)
def test_what_was_started_ends_when_a_part_cannot(
    instances: Make, given: dict[str, str], error: type[PyfiError]
) -> None:
    """No Postgres, or no such address: its own words, and neither broker nor agent is left."""
    box = instances(**given)
    with pytest.raises(error, match="/nowhere|203.0.113.1"):
        start(box, 2)
    until(lambda: not daemons(box), 8.0, "broker and agent have ended")
