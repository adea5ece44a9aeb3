"""What a test needs of the machine, and what happens where that is not there."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest


def need(kind: str, what: str, lacks: Sequence[str]) -> None:
    """Skip where something is missing, and name it; fail if ``PYFI_TEST_REQUIRE`` has this kind, as in CI.

    A check that silently stops running is worse than none.
    """
    if lacks:
        reason = f"{what} needs {', '.join(lacks)}"
        if kind in os.environ.get("PYFI_TEST_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
