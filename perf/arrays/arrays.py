"""A function of arrays, in an environment with numpy."""

from __future__ import annotations

from typing import Any


def twice(array: Any) -> Any:
    """A new array of the same size."""
    return array * 2
