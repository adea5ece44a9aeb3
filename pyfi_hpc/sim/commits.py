"""The group commits of a ledger against the rows that it holds: whether all is there, once, and in a possible order.

    counts      a commit wrote as many jobs, batches, outcomes and attempts as it says
    owner       each row was written by a commit and never touched again
    sequence    no commit is missing between two of an epoch, and none of an epoch comes after one of the next
    epoch       what a commit wrote bears its epoch; what ended was granted in it or before
    cause       a batch after its job or with it; an end after the commit that let the attempt begin

``ledger_commit`` keeps the newest commits only. Rows of older ones are counted, and not compared."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from pyfi_hpc.ledger.recorded import BEFORE, FOREIGN, Commit, Recorded
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, JobOpened, OutcomeSettled, Record
from pyfi_hpc.model.states import Cause

_TABLES: dict[type, str] = {
    JobOpened: "jobs", BatchAdmitted: "batches", OutcomeSettled: "outcomes", AttemptFailed: "attempts"
}  # fmt: skip


def compare(recorded: Recorded) -> dict[str, Any]:
    """How many commits were compared, rows that none is kept for, and every difference."""
    rows: _Rows = [
        (record, group, epoch)
        for record, group, epoch in zip(recorded.records, recorded.groups, recorded.epochs, strict=True)
        if type(record) in _TABLES
    ]
    differences = list(_sequence(recorded.commits, recorded.in_order))
    if recorded.in_order:
        firsts = {r.batch: r.first for r in recorded.records if isinstance(r, BatchAdmitted)}
        differences += _foreign(rows, firsts) + _counts(rows, recorded.commits)
        differences += _epochs(rows, recorded.commits, firsts) + _causes(rows, recorded.commits, firsts)
    return {
        "commits_compared": len(recorded.commits) if recorded.in_order else 0,
        "rows_older_than_commits": sum(group == BEFORE for _, group, _ in rows),
        "differences": differences,
    }


_Rows = list[tuple[Record, int, int]]


def _sequence(commits: list[Commit], in_order: bool) -> list[str]:
    found = []
    for one, other in pairwise(commits):
        if one.epoch == other.epoch and other.seq != one.seq + 1:
            missing = f"seq {one.seq + 1}" if other.seq == one.seq + 2 else f"seq {one.seq + 1} to {other.seq - 1}"
            found.append(f"epoch {one.epoch}: the commit of {missing} is missing")
        if in_order and other.place < one.place:
            found.append(f"{_name(other)} was made before {_name(one)}")
    return found


def _foreign(rows: _Rows, firsts: dict[Any, int]) -> list[str]:
    return [f"{_row(r, firsts)} was not written, or was changed since, by a commit" for r, g, _ in rows if g == FOREIGN]


def _counts(rows: _Rows, commits: list[Commit]) -> list[str]:
    there = Counter((group, _TABLES[type(record)]) for record, group, _ in rows)
    return [
        f"{_name(commit)} wrote {getattr(commit, table)} {table}, and {there[number, table]} are there"
        for number, commit in enumerate(commits)
        for table in _TABLES.values()
        if getattr(commit, table) != there[number, table]
    ]


def _epochs(rows: _Rows, commits: list[Commit], firsts: dict[Any, int]) -> list[str]:
    found = []
    for record, group, epoch in rows:
        if group >= 0:
            mine = commits[group].epoch
            if epoch > mine or (epoch != mine and isinstance(record, JobOpened | BatchAdmitted)):
                found.append(f"{_row(record, firsts)} is of epoch {epoch}, and {_name(commits[group])} wrote it")
    return found


def _causes(rows: _Rows, commits: list[Commit], firsts: dict[Any, int]) -> list[str]:
    """What must come before is looked up by what came so far: rows are in the order of commits."""
    found = []
    #: job, batch, task -> the commit after which, or with which, the next thing can be
    jobs: dict[int, int] = {}
    batches: dict[int, int] = {}
    tried: dict[tuple[int, int], int] = {}
    for record, group, _ in rows:
        if group == FOREIGN:
            continue
        after = -2
        if isinstance(record, JobOpened):
            jobs[record.job] = group
        elif isinstance(record, BatchAdmitted):
            batches[record.batch] = group
            if jobs.get(record.job, BEFORE) > group:
                found.append(f"{_row(record, firsts)} was admitted before its job was opened")
        elif isinstance(record, AttemptFailed):
            task = (record.batch, record.offset)
            after = max(batches.get(record.batch, BEFORE), tried.get(task, BEFORE))
            if record.cause == Cause.STALE:
                continue  # of an attempt that was given up; another may have ended with it
            tried[task] = group
        elif record.grant:  # type: ignore[union-attr]
            tasks = range(record.lo, record.lo + record.count)  # type: ignore[union-attr]
            after = max([batches.get(record.batch, BEFORE), *(tried.get((record.batch, k), BEFORE) for k in tasks)])  # type: ignore[union-attr]
        if group >= 0 and after >= group:
            text = "its attempt ended in the commit that let it begin, or before it"
            found.append(f"{_row(record, firsts)}: {text}, {_name(commits[group])}")
    return found


def _name(commit: Commit) -> str:
    return f"the commit of epoch {commit.epoch}, seq {commit.seq}"


def _row(record: Record, firsts: dict[Any, int]) -> str:
    if isinstance(record, JobOpened):
        return f"job {record.job}"
    if isinstance(record, BatchAdmitted):
        return f"batch {record.batch} of job {record.job}"
    if isinstance(record, AttemptFailed):
        return f"attempt {record.attempt} of task {record.job}.{firsts.get(record.batch, 0) + record.offset}"
    assert isinstance(record, OutcomeSettled)
    more = f" and {record.count - 1} more" if record.count > 1 else ""
    return f"the outcome of task {record.job}.{firsts.get(record.batch, 0) + record.lo}{more}"
