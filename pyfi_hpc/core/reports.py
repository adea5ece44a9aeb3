"""What a rank reports: how the first unfinished task of a bundle ended, and ahead of it what is handed back."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from pyfi_hpc.core.outcomes import OutcomePacker, death_error
from pyfi_hpc.core.runs import Work
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import RunnerExited
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Bundle
from pyfi_hpc.model.states import Cause


class Reports:
    """Gathers ends of tasks; one that was handed back has had its end."""

    def __init__(self, rank: int, bytes_goal: int) -> None:
        self._done = OutcomePacker(rank, bytes_goal)

    def add(
        self, work: Work, cause: int, started: float, duration: float, result: bytes, stdout: bytes | None = None,
        stderr: bytes | None = None,
    ) -> None:  # fmt: skip
        """How the first task without an outcome ended."""
        if work.next not in work.told:
            self._done.add(work.bundle, work.next, cause, started, duration, result, stdout, stderr)

    def add_returned(
        self, work: Work, count: int, started: bytes, durations: bytes, lengths: array[int], payload: bytes
    ) -> None:
        """The first so many tasks without an outcome returned; they were not handed back, because they have run."""
        self._done.add_returned(work.bundle, work.next, count, started, durations, lengths, payload)

    def of_killed(self, work: Work) -> None:
        """It ended before it started."""
        cause = work.killed[work.next]
        error = b""
        if cause is not Cause.RELEASED:
            error = death_error(cause, f"{work.bundle.function} was ended before it started: {cause.name}")
        self.add(work, cause, 0.0, 0.0, error)

    def of_death(self, work: Work, cause: Cause, event: RunnerExited, started: float, duration: float) -> None:
        """It ended with its runner."""
        error = death_error(cause, _death_text(cause, work.bundle, event), event.stderr)
        self.add(work, cause, started, duration, error, event.stdout, event.stderr)

    def hand_back(self, work: Work, positions: Iterable[int]) -> None:
        """Of these, which cannot start here, tell those that are wanted back; ahead of what runs: a rank is idle."""
        for i in positions:
            if work.killed.get(i) is Cause.RELEASED and i not in work.told:
                work.told.add(i)
                work.skipped.add(i)
                self._done.add(work.bundle, i, Cause.RELEASED, 0.0, 0.0, b"")

    def flush(self, out: Effects, peer: Peer) -> None:
        self._done.flush(out, peer)


def _death_text(cause: Cause, bundle: Bundle, event: RunnerExited) -> str:
    if cause is Cause.TIME_LIMIT:
        return f"{bundle.function} ran over its time limit of {bundle.time_limit_s:g} s and was ended"
    if cause is Cause.CANCELLED:
        return f"{bundle.function} was cancelled while it ran"
    if cause in (Cause.CRASH, Cause.OUT_OF_MEMORY):
        return f"the process of {bundle.function} died: {event.how}"
    return f"{bundle.function} was ended: {cause.name}"
