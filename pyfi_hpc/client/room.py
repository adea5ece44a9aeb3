"""Room for submissions that are not acknowledged: callers wait for it, acknowledgements make it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: submissions that are not acknowledged; beyond it ``submit`` blocks
UNACKED_TASKS_MAX = 50_000
UNACKED_BYTES_MAX = 16 << 20


class Room:
    """Counts tasks and bytes; one condition for all who wait for acknowledgements."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self.tasks = self.bytes = 0
        self.closed = False

    def take(self, tasks: int, size: int, wait: bool) -> None:
        """Wait for room (a batch over the limit still goes, alone), unless the caller is who makes it."""
        with self._changed:
            while wait and self.tasks > 0 and not self.closed and (
                self.tasks + tasks > UNACKED_TASKS_MAX or self.bytes + size > UNACKED_BYTES_MAX
            ):  # fmt: skip
                self._changed.wait()
            self.tasks += tasks
            self.bytes += size

    def give(self, tasks: int, size: int) -> None:
        with self._changed:
            self.tasks -= tasks
            self.bytes -= size
            self._changed.notify_all()

    def wait(self, known: Callable[[], bool]) -> None:
        """Wait until ``known``, asked again at every acknowledgement, or the end of the session."""
        with self._changed:
            while not known() and not self.closed:
                self._changed.wait()

    def wait_empty(self, timeout: float | None) -> bool:
        """Wait until nothing is unacknowledged; False: not within ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self.tasks > 0 and not self.closed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """The session has ended: nobody waits any longer."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
