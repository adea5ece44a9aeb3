"""Counts what a port turned away, and names some of it in the log."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("pyfi_hpc.port")

#: so many bad peers are named in the log at once, then one a second; each line tells how many there were
_NAMED_MAX = 20


class Tally:
    """Counts what was turned away and names some of it in the log: a flood must not fill the disk."""

    def __init__(self) -> None:
        self.count = 0
        self._lines = float(_NAMED_MAX)
        self._at = time.monotonic()

    def note(self, text: str, *values: object) -> None:
        self.count += 1
        now = time.monotonic()
        self._lines = min(_NAMED_MAX, self._lines + now - self._at)
        self._at = now
        if self._lines >= 1:
            self._lines -= 1
            log.warning(text, *values, self.count)
