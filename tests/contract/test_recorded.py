"""A ledger on Postgres is read as records: what an imagined cluster committed there comes out the same."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from records import admitted, carrying, opened, settled

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.recorded import read_ledger
from pyfi_hpc.model.records import BatchAdmitted, BatchClosed, DurationsLearned, JobOpened, OutcomeSettled, Record
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.sim.commits import compare
from pyfi_hpc.sim.recording import replay
from pyfi_hpc.sim.run import make


def test_the_tables_tell_what_was_committed(ledger_url: str) -> None:
    """The log of a random run, committed to Postgres and read from its tables: the same records in the same order."""
    run = make(12)
    run.go()
    log = [record for record in run.cluster.store.log if not isinstance(record, DurationsLearned)]
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("test")
    seq = 0
    for group in _groups(log):
        while any(getattr(record, "epoch", 0) > ledger.epoch for record in group):
            ledger.take_over("another")
            seq = 0
        seq += 1
        ledger.commit(group, seq)
    ledger.close()
    recorded = read_ledger(ledger_url)
    read: list[list[Record]] = [[] for _ in _groups(log)]
    for record, at in zip(recorded.records, recorded.groups, strict=True):
        if not isinstance(record, BatchClosed):  # only ranges of these are kept
            read[at].append(record)
    assert [_marks(group) for group in read] == [_marks(group) for group in _groups(log)]
    found, lived = replay(recorded.records), replay(log)
    assert found["differences"] == []
    same = ("records", "final", "open", "decisions_compared", "payloads_compared", "payload_digest")
    assert [found[name] for name in same] == [lived[name] for name in same]
    beside = compare(recorded)
    assert (beside["commits_compared"], beside["rows_older_than_commits"]) == (len(_groups(log)), 0)
    assert beside["differences"] == []


def test_large_values_are_told_whole(ledger_url: str) -> None:
    """Equal large arguments of two batches and a large result, stored as blocks: records as they were committed."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("test")
    value = bytes(range(250)) * 1000
    batches = [carrying(admitted(n, n, count=1), value) for n in (1, 2)]
    outcome = carrying(settled(1, 1, 0, 1), value + b"!")
    ledger.commit([opened(1), opened(2), *batches, outcome], 1)
    ledger.close()
    read = read_ledger(ledger_url).records
    assert [record for record in read if isinstance(record, BatchAdmitted)] == batches
    assert [record.payload for record in read if isinstance(record, OutcomeSettled)] == [outcome.payload]


def _groups(log: list[Record]) -> list[list[Record]]:
    """As group commits may have been: nothing in one follows from another in it."""
    kinds = {JobOpened: 1, BatchAdmitted: 1, OutcomeSettled: 2, BatchClosed: 2}
    return [list(step) for _, step in groupby(log, lambda record: kinds.get(type(record)) or id(record))]


def _marks(group: list[Record]) -> list[str]:
    names = ("job", "batch", "number", "lo", "offset", "attempt", "states", "cause", "payload", "error")
    told = [record for record in group if not isinstance(record, BatchClosed)]
    return sorted(repr([type(record).__name__, *(getattr(record, name, None) for name in names)]) for record in told)


def test_a_ledger_is_a_workload_for_the_trace_player(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What completed, with the times of its jobs and what it took; what failed or is open is no work of a trace."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "perf"))
    from workloads import read_ledger as read_workload

    ledger = PostgresLedger(ledger_url)
    ledger.take_over("test")
    with pytest.raises(UsageError, match="no task that ran"):
        read_workload(ledger_url)
    ended = [settled(1, 1, 0, 2), settled(1, 1, 2, 1, TaskState.FAILED), settled(2, 2, 0, 1)]
    ledger.commit([opened(1), opened(3), opened(2), admitted(1, 1), admitted(2, 2), admitted(3, 3), *ended], 1)
    ledger.close()
    found = [(task.at, task.seconds, task.owner, task.width, task.priority) for task in read_workload(ledger_url).tasks]
    assert found == [(0.0, 0.5, "bio", 1, -2), (0.0, 0.5, "bio", 1, -2), (1.0, 0.5, "bio", 1, -2)]
