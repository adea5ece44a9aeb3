"""Random runs see what they are for: a broker without fence, one that acknowledges too early, a client without keys."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model.records import Record
from pyfi_hpc.sim.brokers import BrokerHost
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster
from pyfi_hpc.sim.disk import Disk
from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.run import run_seed

#: within so many seeds each is caught
SEEDS = 60


class UnfencedLedger(MemoryLedger):
    """Writes, whoever has taken over."""

    def commit(self, records: Sequence[Record], seq: int) -> None:
        self._epoch = self.store.epoch
        super().commit(records, seq)


class UnfencedDisk(Disk):
    ledger_class = UnfencedLedger


class UnfencedBroker(BrokerHost):
    disk_class = UnfencedDisk


class HastyBroker(BrokerHost):
    """Says what follows from records before they are committed."""

    def _flush(self) -> None:
        behind, self._behind = self._behind, []
        self._send(behind)
        super()._flush()


class ForgetfulClient(ClientHost):
    """Sends a batch again under another key."""

    resends_under_new_keys = True


class NoFence(Cluster):
    broker_class = UnfencedBroker


class EarlyAcknowledgement(Cluster):
    broker_class = HastyBroker


class EarlyAndUnseen(EarlyAcknowledgement):
    """Nobody looks at single messages: what came of it has to show in the end."""

    @property
    def audited(self) -> bool:
        return False

    @audited.setter
    def audited(self, value: bool) -> None:
        pass


class NoKeys(Cluster):
    client_class = ForgetfulClient


@pytest.mark.parametrize("mutant", [NoFence, EarlyAcknowledgement, EarlyAndUnseen, NoKeys])
def test_a_mutant_is_caught(mutant: type[Cluster]) -> None:
    """A promise is broken within a few dozen seeds, and the unchanged parts keep it under the same seeds."""
    for seed in range(SEEDS):
        try:
            run_seed(seed, cluster_class=mutant)
        except Violation as problem:
            print(f"seed {seed}: {problem}")
            run_seed(seed)
            return
    pytest.fail(f"{SEEDS} seeds did not show what {mutant.__name__} does")
