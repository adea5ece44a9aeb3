"""What a runner inherits of its rank's environment."""

from __future__ import annotations

import pytest

from pyfi_hpc.adapters.surroundings import runner_environment


def test_a_runner_keeps_freed_memory_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's limits are set; one that is set already, by the site or the user, stays."""
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    found = runner_environment("/e/bin/python", "mark")
    assert (found["MALLOC_MMAP_THRESHOLD_"], found["MALLOC_TRIM_THRESHOLD_"]) == ("33554432", "67108864")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    found = runner_environment("/e/bin/python", "mark")
    assert (found["MALLOC_MMAP_THRESHOLD_"], found["MALLOC_TRIM_THRESHOLD_"]) == ("33554432", "0")
