"""Retry budgets: what a failed attempt is counted against, by its cause. The table is the rule.

A cause is charged to the user's ``retries=``, or has a budget of its own, or is free. Causes are counted apart: a task
that lost two nodes may still crash twice. Those charged to the user share the one number that the user gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pyfi_hpc.errors import SettingsError
from pyfi_hpc.model.states import Cause, TaskState

#: in place of a number of attempts
USER, FREE = "retries", "free"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one cause is counted against, and how a task ends when that is used up."""

    #: failed attempts after which the task is not tried again; USER: as many as its retries allow; FREE: any number
    attempts_max: int | str
    #: how it is told at the end, with the number of attempts behind it
    words: str
    final: TaskState = TaskState.FAILED
    #: where an attempt ended so may be to blame: "rank", "node", or nothing (see core/health.py)
    blames: str = ""


Budgets = Mapping[Cause, Rule]

BUDGETS: Budgets = MappingProxyType({
    Cause.ERROR: Rule(USER, "it raised"),
    Cause.TIME_LIMIT: Rule(USER, "it ran over its time limit", TaskState.TIMEOUT),
    Cause.CRASH: Rule(3, "its process died", blames="rank"),
    Cause.OUT_OF_MEMORY: Rule(3, "its process died of want of memory"),
    Cause.RANK_LOST: Rule(3, "its rank died", blames="rank"),
    Cause.NODE_FAIL: Rule(3, "its node was lost", blames="node"),
    Cause.ENVIRONMENT: Rule(3, "its environment could not be prepared", blames="node"),
    Cause.WALLTIME: Rule(FREE, "its allocation ended"),
    Cause.PREEMPTED: Rule(FREE, "it was preempted"),
    # a function that returns Continue without getting on would do so for ever
    Cause.CONTINUED: Rule(1000, "it returned Continue"),
})  # fmt: skip


#: after these the next attempt is made elsewhere if it can be: they have budgets because a place may be to blame
ELSEWHERE = frozenset(
    cause for cause, rule in BUDGETS.items() if isinstance(rule.attempts_max, int) and cause is not Cause.CONTINUED
)


def exhausted(budgets: Budgets, cause: Cause, counts: Mapping[Cause, int], retries: int) -> bool:
    """Whether a task is not tried again: ``counts`` are its failed attempts, with the one that just ended."""
    limit = budgets[cause].attempts_max
    if limit == USER:
        return charged(budgets, counts) > retries
    return isinstance(limit, int) and counts[cause] >= limit


def charged(budgets: Budgets, counts: Mapping[Cause, int]) -> int:
    """Failed attempts that the user's retries pay for."""
    return sum(counts.get(cause, 0) for cause, rule in budgets.items() if rule.attempts_max == USER)


def last_words(budgets: Budgets, cause: Cause, count: int, how: str) -> str:
    """The error of a task that is not tried again though its function never said a word."""
    text = f"{budgets[cause].words} {count} time{'s' * (count != 1)} and it is not tried again"
    return f"{text}; the last time: {how}" if how else text


def cause_of(state: TaskState, error: Mapping[str, str] | None) -> Cause | None:
    """The cause of a task's last attempt, from how the task ended; the inverse of `last_words`."""
    if state == TaskState.TIMEOUT:
        return Cause.TIME_LIMIT
    if state != TaskState.FAILED or error is None:
        return None
    if error["module"] == "pyfi_hpc.errors" and error["type"] == "EnvironmentFailed":
        return Cause.ENVIRONMENT
    if error["module"] == "pyfi_hpc.errors" and error["type"] == "TaskLost":
        found = [cause for cause, rule in BUDGETS.items() if error["message"].startswith(f"{rule.words} ")]
        return max(found, key=lambda cause: len(BUDGETS[cause].words), default=Cause.CRASH)
    return Cause.ERROR


def told(budgets: Budgets) -> dict[str, int | str]:
    """The limits as plain values, by the causes' names in lower case."""
    return {cause.name.lower(): rule.attempts_max for cause, rule in budgets.items()}


def report(limits: Mapping[str, int | str], counts: Mapping[Cause, int], retries: int) -> list[dict[str, Any]]:
    """Each cause with the attempts that it used and the limit; -1: none. Charged causes share theirs."""
    rows: list[dict[str, Any]] = []
    shared = sum(counts.get(Cause[name.upper()], 0) for name, limit in limits.items() if limit == USER)
    for name, limit in limits.items():
        used = counts.get(Cause[name.upper()], 0)
        most = retries + 1 if limit == USER else limit if isinstance(limit, int) else -1
        row = {"cause": name, "used": used, "limit": most, "charged": limit == USER}
        rows.append(row | ({"shared": shared} if limit == USER else {}))
    return rows


def read(words: Iterable[str]) -> Budgets:
    """The table with changes such as ``crash=5``, ``environment=1``, ``crash=retries`` or ``node_fail=free``.

    Raises
    ------
    SettingsError
    """
    found = dict(BUDGETS)
    for word in words:
        name, _, value = (part.strip() for part in word.partition("="))
        cause = next((cause for cause in BUDGETS if cause.name.lower() == name), None)
        if cause is None or not (value in (USER, FREE) or (value.isdecimal() and 0 < int(value) < 1000)):
            raise SettingsError(
                f"{word!r} is not a retry budget", where="the setting budgets (PYFI_BUDGETS or config.toml)",
                fix=f"write CAUSE=N, CAUSE={USER} or CAUSE={FREE}; causes are {', '.join(told(BUDGETS))}",
            )  # fmt: skip
        old = found[cause]
        found[cause] = Rule(int(value) if value.isdecimal() else value, old.words, old.final, old.blames)
    return MappingProxyType(found)
