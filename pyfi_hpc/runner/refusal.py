"""What cannot be sent, and where it sits."""

from __future__ import annotations

from typing import Any

#: lists, dicts, tuples and sets inside each other; deeper is refused on both sides
DEPTH_MAX = 100


class NotSendable(ValueError):
    """A value cannot be sent; ``where`` is its path inside what was given, ``what`` the reason."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.steps: list[str] = []

    @property
    def where(self) -> str:
        return "".join(reversed(self.steps))

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.steps else self.what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,), {"what": self.what, "steps": self.steps}
