"""How long functions take, as seen lately."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from pyfi_hpc.core.sketch import FIRST_S, IN_FRONT, RUNNING, Sketch


class Durations:
    """Mean duration by function, by an exponential average; unknown ones are None.

    New evidence weighs more while there is little of it: the k-th report weighs 1/k, at least 0.1.
    """

    def __init__(self) -> None:
        self._mean: dict[Hashable, float] = {}
        self._reports: dict[Hashable, int] = {}
        self._longest: dict[Hashable, float] = {}
        self._sketches: dict[Hashable, Sketch] = {}
        self._most: dict[Hashable, float] = {}
        #: over all functions, by task
        self.overall: float | None = None

    def of(self, function: Hashable) -> float | None:
        return self._mean.get(function)

    def most(self, function: Hashable) -> float | None:
        """What most tasks take at most."""
        if function not in self._longest:
            return None
        if function not in self._most:
            sketch = self._sketches.get(function)
            # up to FIRST_S a sketch knows nothing, and the longest is a better guess
            known = sketch is not None and self._longest[function] > FIRST_S
            self._most[function] = sketch.quantile(IN_FRONT) if known else self._longest[function]  # type: ignore[union-attr]
        return self._most[function]

    def rest(self, function: Hashable, age_s: float) -> float:
        """How much longer nearly every task takes at most that has run for so long."""
        longest = self._longest.get(function, 1.0)
        sketch = self._sketches.get(function)
        if sketch is None or longest <= FIRST_S:
            return max(0.0, longest - age_s)
        return sketch.rest(RUNNING, age_s)

    def report(self, function: Hashable, mean_s: float, each_s: Sequence[float] = ()) -> None:
        """Tasks have ended, on average after so long; and each, where that is to be known."""
        reports = self._reports[function] = self._reports.get(function, 0) + 1
        weight = max(0.1, 1.0 / reports)
        old = self._mean.get(function, mean_s)
        self._mean[function] = old + weight * (mean_s - old)
        # about the longest lately: a hundred shorter ones make it a third of what it was
        self._longest[function] = max(mean_s, 0.99 * self._longest.get(function, 0.0))
        self.overall = mean_s if self.overall is None else self.overall + 0.1 * (mean_s - self.overall)
        if each_s:
            self._sketches.setdefault(function, Sketch()).add(each_s)
        self._most.pop(function, None)
