"""Retry budgets: one row per cause, what it is charged to and when a task is not tried again. Pure, virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from lone_broker import LoneBroker

from pyfi_hpc.cli.calls import budgets as shown
from pyfi_hpc.errors import SettingsError
from pyfi_hpc.model.budgets import BUDGETS, FREE, USER, cause_of, last_words, read, report, told
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.states import Cause, TaskState

#: cause -> (attempts without retries=, attempts with retries=2, final state)
TABLE = {
    Cause.ERROR: (1, 3, TaskState.FAILED),
    Cause.TIME_LIMIT: (1, 3, TaskState.TIMEOUT),
    Cause.CRASH: (3, 3, TaskState.FAILED),
    Cause.OUT_OF_MEMORY: (3, 3, TaskState.FAILED),
    Cause.RANK_LOST: (3, 3, TaskState.FAILED),
    Cause.NODE_FAIL: (3, 3, TaskState.FAILED),
    Cause.ENVIRONMENT: (3, 3, TaskState.FAILED),
    Cause.WALLTIME: (None, None, None),
    Cause.PREEMPTED: (None, None, None),
    Cause.CONTINUED: (None, None, None),  # a thousand
}
#: ends that are no failure of an attempt
OTHERS = {Cause.NONE, Cause.RELEASED, Cause.CANCELLED, Cause.STALE}
_MANY = 20


def fail_until_final(broker: LoneBroker, task: tuple[int, int], cause: Cause) -> int:
    """Let each attempt end so; how many there were until the task was final, at most 20."""
    for attempts in range(1, _MANY + 1):
        broker.ended("n1", task, cause)
        if broker.state(task) is not None:
            return attempts
    return _MANY


@pytest.mark.parametrize("cause", TABLE, ids=lambda cause: cause.name)
def test_a_task_is_tried_as_often_as_its_budget_allows(cause: Cause) -> None:
    """Alone, with the user's retries, and after failures of every other kind: causes are counted apart."""
    plain, with_retries, final = TABLE[cause]
    for retries, expected in ((0, plain), (2, with_retries)):
        broker = LoneBroker()
        broker.node("n1")
        task = (broker.submit(retries=retries), 0)
        assert fail_until_final(broker, task, cause) == (expected or _MANY)
        assert broker.state(task) == final
    broker = LoneBroker()
    broker.node("n1")
    task = (broker.submit(retries=2), 0)
    charged = BUDGETS[cause].attempts_max == USER
    for other in BUDGETS:
        if other is not cause and not (charged and BUDGETS[other].attempts_max == USER):
            broker.ended("n1", task, other)
    assert broker.state(task) is None
    assert fail_until_final(broker, task, cause) == (with_retries or _MANY)


def test_the_table_has_every_cause_that_ends_an_attempt() -> None:
    assert set(TABLE) == set(BUDGETS) == set(Cause) - OTHERS


def test_errors_and_time_limits_share_what_the_user_gave() -> None:
    """retries=2: an error, a time limit and another error are the three attempts."""
    broker = LoneBroker()
    broker.node("n1")
    task = (broker.submit(retries=2), 0)
    for cause in (Cause.ERROR, Cause.TIME_LIMIT):
        broker.ended("n1", task, cause)
        assert broker.state(task) is None
    broker.ended("n1", task, Cause.ERROR)
    assert broker.state(task) is TaskState.FAILED


@pytest.mark.parametrize("cause", [c for c in TABLE if BUDGETS[c].attempts_max == 3], ids=lambda cause: cause.name)
def test_the_last_words_name_the_cause_and_are_read_back(cause: Cause) -> None:
    """What a poison task's error says, and the report that counts its last attempt from it."""
    broker = LoneBroker()
    broker.node("n1")
    task = (broker.submit(), 0)
    for _ in range(3):
        broker.ended("n1", task, cause, text="signal 9")
    text = broker.error(task)
    if cause is not Cause.ENVIRONMENT:  # that one speaks for itself
        assert text == last_words(BUDGETS, cause, 3, "signal 9") and text.endswith("the last time: signal 9")
        error = {"module": "pyfi_hpc.errors", "type": "TaskLost", "message": text}
        assert cause_of(TaskState.FAILED, error) is cause


def test_a_function_that_does_not_get_on_fails_at_last() -> None:
    """Continue, again and again: its last words name the limit; a state that looks like an error is none."""
    broker = LoneBroker(Limits(lease_s=1e9, budgets=read(("continued=3",))))
    broker.node("n1")
    task = (broker.submit(), 0)
    assert fail_until_final(broker, task, Cause.CONTINUED) == 3
    assert broker.error(task) == last_words(BUDGETS, Cause.CONTINUED, 3, "CONTINUED")


def test_causes_are_told_apart_by_their_last_words() -> None:
    """No two causes use the same words."""
    words = sorted(rule.words for rule in BUDGETS.values())
    assert all(a != b for a, b in pairwise(words))


def test_the_instance_can_change_its_budgets() -> None:
    """crash=1, node_fail=free, environment=retries: the settings' words, and what follows for a task."""
    changed = read(("crash=1", "node_fail = free", "environment=retries"))
    assert told(changed)["crash"] == 1 and told(changed)["node_fail"] == FREE
    for cause, attempts in ((Cause.CRASH, 1), (Cause.NODE_FAIL, _MANY), (Cause.ENVIRONMENT, 2)):
        broker = LoneBroker(Limits(lease_s=1e9, budgets=changed))
        broker.node("n1")
        assert fail_until_final(broker, (broker.submit(retries=1), 0), cause) == attempts


@pytest.mark.parametrize("word", ["crash", "crash=0", "crash=-1", "crush=3", "crash=many", "none=3"])
def test_a_budget_that_cannot_be_read_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="not a retry budget"):
        read((word,))


def test_budgets_are_shown_with_used_and_limit() -> None:
    """The line of `pyfi ls call`: charged causes share a number, free ones have no limit."""
    counts: Mapping[Cause, int] = {Cause.ERROR: 1, Cause.TIME_LIMIT: 1, Cause.CRASH: 1, Cause.WALLTIME: 4}
    text = shown(report(told(BUDGETS), counts, 2), 2)
    assert text.startswith("error+time_limit 2/3 (retries=2)  crash 1/3  ") and "walltime 4 (free)" in text
    assert shown(report(told(BUDGETS), {}, 0), 0).startswith("error 0/1 (retries=0)  crash 0/3")


def test_the_table_stands_in_the_guarantees() -> None:
    """docs/guarantees.md has one row per cause with the same limit."""
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    found = {row[0]: row[2] for row in rows if row[0] in told(BUDGETS)}
    words = {USER: "the user's `retries=`", FREE: "free"}
    assert found == {name: words.get(str(limit), f"{limit} attempts") for name, limit in told(BUDGETS).items()}
