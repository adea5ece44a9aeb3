"""A broker whose ledger fails every few commits, before it has written anything or after it has committed all."""

from pyfi_hpc.errors import LedgerUnavailable
from pyfi_hpc.ledger.postgres import PostgresLedger

_commit = PostgresLedger.commit
_counts = {"calls": 0}


def commit(self, records, seq):
    _counts["calls"] += 1
    if _counts["calls"] % 7 == 3:
        raise LedgerUnavailable("made to fail before the commit")
    _commit(self, records, seq)
    if _counts["calls"] % 7 == 6:
        # as after a lost answer: what became of it is not known, and the connection is gone
        self._unknown = (self.epoch, seq)
        self._writer.close()
        self._writer = None
        raise LedgerUnavailable("made to fail after the commit")


PostgresLedger.commit = commit
PostgresLedger.start = lambda self, records, seq: False
