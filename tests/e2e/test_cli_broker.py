"""``pyfi broker`` with a standby, a restart and a stop, as a user types it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import until
from pyfi_command import Pyfi

from pyfi_hpc.ledger import embedded


@pytest.fixture
def pyfi() -> Iterator[Pyfi]:
    folder = Path(tempfile.mkdtemp(prefix="pyfi-b-", dir="/tmp"))
    made = Pyfi(folder)
    try:
        yield made
        made("down")
        until(lambda: not made.processes(), 8.0, f"all has ended: {made.processes()}")
    finally:
        made("down", code=None)
        embedded.remove(made.settings())
        shutil.rmtree(folder, ignore_errors=True)


def info(pyfi: Pyfi) -> Any:
    return json.loads(pyfi("info", "--json").stdout)


def test_a_standby_is_started_shown_used_and_stopped(pyfi: Pyfi) -> None:
    """Start, standby, info, doctor, stop: the standby serves; another one is stopped by name; down ends the rest."""
    pyfi("broker", "start")
    first = info(pyfi)
    assert first["standbys"] == []
    started = pyfi("broker", "--standby").stdout
    assert "waiting" in started
    (standby,) = info(pyfi)["standbys"]
    assert f"pid {standby['pid']} on {standby['host']}, waiting" in pyfi("info").stdout
    assert f"standby: pid {standby['pid']}" in pyfi("doctor", code=None).stdout
    assert info(pyfi)["broker"]["epoch"] == first["broker"]["epoch"]
    assert f"pid {standby['pid']} on" in pyfi("broker", "stop").stdout
    after = info(pyfi)
    assert (after["address"], after["standbys"]) == (first["address"], [])
    assert after["broker"]["epoch"] == first["broker"]["epoch"] + 1
    pyfi("broker", "start", "--standby")
    pyfi("broker", "--standby", "start")
    assert len(info(pyfi)["standbys"]) == 2
    ended = json.loads(pyfi("broker", "stop", "--standby", "--json").stdout)
    assert len(ended["stopped"]) == 2
    assert info(pyfi)["standbys"] == []
    assert "no standby" in pyfi("broker", "--standby", "stop").stdout


def test_a_restart_puts_a_new_broker_in_the_same_place(pyfi: Pyfi) -> None:
    """The address stays, the epoch grows by one; without a broker there is nothing to restart."""
    refused = pyfi("broker", "restart", code=3)
    assert "pyfi broker start" in refused.stderr
    pyfi("broker", "stop", code=3)
    assert "Missing command" in pyfi("broker", code=2).stderr
    pyfi("broker", "start")
    before = info(pyfi)
    done = json.loads(pyfi("broker", "restart", "--json").stdout)
    assert done["away_s"] < 10
    after = info(pyfi)
    assert after["address"] == before["address"]
    assert after["broker"]["epoch"] == before["broker"]["epoch"] + 1


def test_a_standby_alone_is_the_broker(pyfi: Pyfi) -> None:
    """Nobody holds the ledger: it serves at once and says so."""
    assert "it serves" in pyfi("broker", "--standby").stdout
    assert info(pyfi)["broker"]["epoch"] == 1
    assert info(pyfi)["standbys"] == []
