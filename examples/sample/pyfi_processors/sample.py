"""Functions that show what they were given, so that the shape of a workflow can be read from its result."""

from __future__ import annotations

import time
from typing import Any


def do_something(value: Any, text: str = "") -> str:
    """``do_something(...)`` around what came before, and this step's own text behind it."""
    return f"do_something({_shown(value, text)})"


def do_this(value: Any, text: str = "") -> str:
    """The same with another name."""
    return f"do_this({_shown(value, text)})"


def echo(value: Any) -> Any:
    """What it was given."""
    return value


def square(number: float) -> float:
    """The square of a number."""
    return number * number


def total(numbers: list[float]) -> float:
    """The sum of a list: the end of a funnel."""
    return sum(numbers)


def add(number: float, other: float) -> float:
    """The sum of two numbers: in a pipeline the first is the previous result."""
    return number + other


def wait(seconds: float) -> float:
    """Sleep, and return for how long (s)."""
    time.sleep(seconds)
    return seconds


def fail(message: str) -> None:
    """Raise a ValueError, to see how a failure travels."""
    raise ValueError(message)


def _shown(value: Any, text: str) -> str:
    items = value if isinstance(value, list) else [value]
    shown = ", ".join(f"[{_shown(item, '')}]" if isinstance(item, list) else str(item) for item in items)
    return f"{shown} | {text}" if text else shown
