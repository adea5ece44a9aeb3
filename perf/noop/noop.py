"""Functions that cost nothing, for measuring what everything else costs."""

from __future__ import annotations

import time


def noop(value: object = None) -> object:
    return value


def spin(seconds: float) -> float:
    """Keep a core busy for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds
