"""A ledger on Postgres is read as records: what an imagined cluster committed there comes out the same."""

from __future__ import annotations

from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.recorded import read_records
from pyfi_hpc.sim.recording import replay
from pyfi_hpc.sim.run import make


def test_the_tables_tell_what_was_committed(ledger_url: str) -> None:
    """The log of a random run, committed to Postgres and read from its tables: the same tasks in the same states."""
    run = make(14)
    run.go()
    log = run.cluster.store.log
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("test")
    for seq, lo in enumerate(range(0, len(log), 20), 1):
        ledger.commit(log[lo : lo + 20], seq)
    ledger.close()
    found, lived = replay(read_records(ledger_url)), replay(log)
    assert found["differences"] == []
    assert (found["records"], found["final"], found["open"]) == (lived["records"], lived["final"], lived["open"])
