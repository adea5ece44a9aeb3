"""An instance as a user has it: made, used and stopped by the command ``pyfi`` alone."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyfi_command import ROOT, Pyfi

from pyfi_hpc.ledger import embedded


@pytest.fixture(scope="session")
def instance() -> Iterator[Pyfi]:
    """Two ranks, examples/sample deployed; after ``pyfi down`` no process and no file in scratch is left."""
    pyfi = Pyfi(Path(tempfile.mkdtemp(prefix="pyfi-cli-", dir="/tmp")))
    try:
        pyfi("up", "-n", "2")
        pyfi("deploy", str(ROOT / "examples/sample"), "--allow-dirty")
        yield pyfi
        pyfi("down")
        deadline = time.monotonic() + 5.0
        while pyfi.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert pyfi.processes() == {}
        assert list((pyfi.home / "s").iterdir()) == []
        assert "nothing of instance 'cli' was running" in pyfi("down").stdout
    finally:
        pyfi("down", code=None)
        embedded.remove(pyfi.settings())
        shutil.rmtree(pyfi.home, ignore_errors=True)
