"""What a function can know of its end, and how it stops before it: ``remaining``, ``on_end`` and ``Continue``.

Loaded by ``child.py`` by its path; the standard library only. Times are of the node's monotonic clock, which its agent,
ranks and runners share.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

_NEVER = float("inf")


class Continue:
    """Returned by a function that is to be called again, with the same arguments and ``state=`` what is given here.

    The state is anything that may be a result. It is in the ledger before the next attempt begins; no attempt is
    charged. The function says ``def f(..., state=None)``.
    """

    __slots__ = ("state",)

    def __init__(self, state: Any) -> None:
        self.state = state


class Ending:
    """When the task that runs now has to have ended, and what is to be called before."""

    def __init__(self) -> None:
        self._ends_at = _NEVER
        self._limit_s = _NEVER
        self._timers: list[threading.Timer] = []
        #: when the task began; None: none runs
        self.began: float | None = None

    def of_run(self, time_limit_s: float, ends_at: float) -> None:
        """For the tasks of a run; 0: there is no limit, no end."""
        self._limit_s = time_limit_s or _NEVER
        self._ends_at = ends_at or _NEVER

    def remaining(self) -> float:
        """Seconds until the allocation ends or the task's own time limit is over, whichever comes first.

        inf where there is neither, and where no task runs; below 0 when it is past.
        """
        if self.began is None:
            return _NEVER
        return min(self._ends_at, self.began + self._limit_s) - monotonic()

    def on_end(self, callback: Callable[[], object], before_s: float = 30.0) -> None:
        """Call something so many seconds before the end, at once if that is past, unless the task has ended by then.

        It is called in a thread of its own while the function goes on: let it set a flag or write a file. An error that
        it raises is printed, and changes nothing. Where there is no end it is never called.
        """
        left = self.remaining()
        if left < _NEVER:
            timer = threading.Timer(max(0.0, left - before_s), callback)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def end(self) -> None:
        """The task has ended: what was to be called is not."""
        self.began = None
        if self._timers:
            for timer in self._timers:
                timer.cancel()
            self._timers = []


def takes_state(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with ``state=``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not known: the next call tells
        return True
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.kind is p.VAR_KEYWORD or (p.name == "state" and p.kind in kinds) for p in parameters)
