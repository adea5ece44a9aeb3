"""How long functions take, as seen lately."""

from __future__ import annotations

from collections.abc import Hashable


class Durations:
    """Mean duration by function, by an exponential average; unknown ones are None.

    New evidence weighs more while there is little of it: the k-th report weighs 1/k, at least 0.1.
    """

    def __init__(self) -> None:
        self._mean: dict[Hashable, float] = {}
        self._reports: dict[Hashable, int] = {}
        self._longest: dict[Hashable, float] = {}
        #: over all functions, by task
        self.overall: float | None = None

    def of(self, function: Hashable) -> float | None:
        return self._mean.get(function)

    def longest(self, function: Hashable) -> float | None:
        """About the longest lately: a hundred shorter ones make it a third of what it was."""
        return self._longest.get(function)

    def report(self, function: Hashable, mean_s: float) -> None:
        reports = self._reports[function] = self._reports.get(function, 0) + 1
        weight = max(0.1, 1.0 / reports)
        old = self._mean.get(function, mean_s)
        self._mean[function] = old + weight * (mean_s - old)
        self._longest[function] = max(mean_s, 0.99 * self._longest.get(function, 0.0))
        self.overall = mean_s if self.overall is None else self.overall + 0.1 * (mean_s - self.overall)
