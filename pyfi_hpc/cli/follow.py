"""Following a job to its end: results are counted, handed to whoever wants them, and let go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyfi_hpc.cli.progress import Progress
from pyfi_hpc.model.states import FIRST_FINAL, TaskState

if TYPE_CHECKING:
    from pyfi_hpc.client.session import Session
    from pyfi_hpc.client.sinks import Inbox
    from pyfi_hpc.model.messages import Range

#: between two looks at what has arrived; the wait itself ends with each arrival
_LOOK_S = 0.1


@dataclass
class Tally:
    """Tasks of a job by final state."""

    job: int
    name: str = ""
    done: int = 0
    total: int = -1
    states: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Everything that did not complete."""
        return self.done - self.states.get(TaskState.COMPLETED.name, 0)

    @property
    def complete(self) -> bool:
        return self.done == self.total


class Follower:
    """Takes results out of an inbox; in order, memory stays at what is out of order.

    Parameters
    ----------
    taken : callable, optional
        Gets the results that arrived since the last time.
    in_order : bool
        By index; else as they come.
    """

    def __init__(
        self, session: Session, inbox: Inbox, taken: Callable[[list[Range]], None] | None = None, in_order: bool = True
    ) -> None:
        self._session = session
        self._inbox = inbox
        self._taken = taken
        self._in_order = in_order
        #: results taken: in order, the index of the next one
        self.next = 0

    def drain(self) -> None:
        pieces = []
        while (piece := self._pop()) is not None:
            self.next += piece.count
            pieces.append(piece)
        if pieces and self._taken is not None:
            self._taken(pieces)
        if self._inbox.retains:
            for piece in pieces:
                self._session.taken(len(piece.payload))

    def has_more(self) -> bool:
        """There is something to take."""
        return self._inbox.has(self.next) if self._in_order else self._inbox.has_any()

    def _pop(self) -> Range | None:
        return self._inbox.pop(self.next) if self._in_order else self._inbox.pop_any()

    def tally(self) -> Tally:
        feed = self._inbox.feed
        final = [state for state in TaskState if state >= FIRST_FINAL]
        states = {state.name: count for state in final if (count := feed.states.count(state))}
        return Tally(self._inbox.job, self._inbox.name, feed.count, feed.total, states)

    def run(self, progress: Progress, timeout_s: float | None = None, more: Callable[[], bool] | None = None) -> Tally:
        """Until every task is final, or the time is over.

        Parameters
        ----------
        more : callable, optional
            Submits some of the job while there is room; False: there was none, or nothing is left.
        """
        feed, inbox = self._inbox.feed, self._inbox
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self.drain()
            progress.update(feed.count, feed.total, feed.count - feed.states.count(TaskState.COMPLETED))
            if feed.complete or (deadline is not None and time.monotonic() >= deadline):
                self.drain()  # what came since
                return self.tally()
            if more is not None and more():
                continue
            left = _LOOK_S if deadline is None else min(_LOOK_S, max(deadline - time.monotonic(), 0))
            try:
                inbox.wait(lambda: feed.complete or self.has_more(), left, "the job's end")
            except TimeoutError:
                pass
