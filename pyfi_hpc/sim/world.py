"""The clock and the heap: everything that happens in an imagined cluster is an entry of one heap.

Virtual seconds pass when the next entry is taken, so an hour of leases takes milliseconds. All chance comes from
one seed, and entries of one moment are taken in the order in which they were made: a seed is a run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from pyfi_hpc.sim.story import Story

Entry = tuple[float, int, Callable[..., None], tuple[Any, ...]]


class World:
    """Virtual time.

    Parameters
    ----------
    seed : int
    story : Story, optional
        Told everything that happens; costs about as much as the run.
    """

    def __init__(self, seed: int = 0, story: Story | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.story = story
        #: entries taken so far
        self.steps = 0
        #: messages, records and actions that machines asked for
        self.decisions = 0
        self._heap: list[Entry] = []
        self._ticket = 0

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        """Do something at a time, at once if that has passed."""
        self._ticket += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._ticket, what, args))

    def after(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        self.at(self.now + seconds, what, *args)

    def run(self, until: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Let things happen until the condition holds; TimeoutError when it does not in time."""
        end = self.now + limit_s
        while not until():
            if not self._heap or self._heap[0][0] > end:
                raise TimeoutError(f"the condition does not hold at {min(end, self.now):.3f} s")
            self._step()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self._step()
        self.now = end

    def chance(self, name: object) -> random.Random:
        """A source of chance of one thing's own: what others draw does not change it."""
        return random.Random(f"{self.seed}/{name}")

    def tell(self, who: str, text: str, about: Any = None) -> None:
        """A line of the story."""
        if self.story is not None:
            self.story.add(self.now, who, text, about)

    def _step(self) -> None:
        self.now, _, what, args = heapq.heappop(self._heap)
        self.steps += 1
        what(*args)
