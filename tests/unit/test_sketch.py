"""Sketches of durations: quantiles that are never too low and hardly too high, merged and packed."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.core.sketch import BINS, FIRST_S, Sketch, size_class

SECONDS = st.floats(0.0, 1e6)


@settings(max_examples=200, deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_at_most_nine_percent_too_high(seconds: list[float], share: float) -> None:
    """Against the sorted list."""
    sketch = Sketch()
    sketch.add(seconds)
    true = sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]
    found = sketch.quantile(share)
    assert max(true, FIRST_S) <= found * (1 + 1e-9) <= max(true, FIRST_S) * 2 ** (1 / 8) * (1 + 1e-6)
    assert found / 2 ** (1 / 8) <= sketch.at_least(share) * (1 + 1e-9) <= found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(FIRST_S, 1e5), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]), st.data())
def test_what_is_left_of_one_that_runs(seconds: list[float], share: float, data: st.DataObject) -> None:
    """The quantile of those that took at least as long, within a bin; half of its age if none did."""
    sketch = Sketch()
    sketch.add(seconds)
    age = data.draw(st.floats(0.0, 2e5))
    older = sorted(each for each in seconds if each >= age)
    rest = sketch.rest(share, age)
    if older:
        true = older[max(0, math.ceil(share * len(older)) - 1)] - age
        assert rest >= 0.0
        if share == 0.99:  # those of the bin in which its age lies may be shorter, and are few
            assert rest <= (max(older) * 2 ** (1 / 8) - age) * (1 + 1e-6) + 1e-6
        if age <= FIRST_S:
            assert rest + age >= (true + age) * (1 - 1e-9)
    elif age > max(seconds) * 2 ** (1 / 8):
        assert rest == age / 2


@settings(max_examples=100, deadline=None)
@given(st.lists(SECONDS, max_size=200), st.lists(SECONDS, max_size=200))
def test_merged_is_as_if_added_to_one(some: list[float], others: list[float]) -> None:
    """And what was packed is read again."""
    one, other, both = Sketch(), Sketch(), Sketch()
    one.add(some)
    other.add(others)
    both.add(some + others)
    one.merge(Sketch(other.packed()))
    assert (one.packed(), one.total) == (both.packed(), both.total)


def test_what_is_old_fades() -> None:
    """A function that became ten times slower: after some thousand calls that is what is known."""
    chance = random.Random(1)
    sketch = Sketch()
    for seconds in (1.0, 10.0):
        for _ in range(20_000):
            sketch.add([seconds * chance.uniform(0.9, 1.1)])
    assert sketch.total <= 4096 and sketch.quantile(0.1) > 5.0


def test_nothing_from_outside_breaks_it() -> None:
    """NaN, infinity, negative seconds, and counts of another length."""
    sketch = Sketch(b"what is this")
    assert (sketch.total, sketch.quantile(0.95)) == (0, 0.0)
    sketch.add([float("nan"), -1.0, float("inf"), 1e300])
    assert sketch.total == 4 and sketch.counts[0] == 2 and sketch.counts[BINS - 1] == 2


def test_size_hints_within_a_factor_of_two_are_one_class() -> None:
    assert size_class(0) == 0
    assert size_class(1.0) == size_class(1.9) != size_class(2.0)
    assert 1 <= size_class(5e-324) < size_class(1e18) <= 127
