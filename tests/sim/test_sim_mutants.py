"""Random runs see what they are for: a broker without fence, one that acknowledges too early, a client without keys,
a rank that guesses what its runner has begun."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pyfi_hpc.core import follow
from pyfi_hpc.core.follow import over
from pyfi_hpc.core.held import Holdings
from pyfi_hpc.core.rank import RankMachine
from pyfi_hpc.core.runs import Work
from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.messages import Outcome
from pyfi_hpc.model.packed import pick
from pyfi_hpc.model.records import Record
from pyfi_hpc.model.states import Cause
from pyfi_hpc.sim import workload
from pyfi_hpc.sim.brokers import BrokerHost
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan
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


class HastyRank(RankMachine):
    """Hands back at once what it takes for not begun; its runner may have just begun it."""

    def _mark(self, work: Work, positions: range, cause: Cause, now: float, out: Effects) -> None:
        runner = next((r for r in self._runners.values() if work in r.runs), None)
        if cause is Cause.RELEASED and runner is not None and not runner.ending:
            head = work.next if runner.runs[0] is work else -1
            for i in positions:
                if i != head and i not in work.told and work.killed.get(i, cause) is cause:
                    work.told.add(i)
                    self._reports._done.add(work.bundle, i, cause, 0.0, 0.0, b"")
        super()._mark(work, positions, cause, now, out)


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


class NoPermits(Cluster):
    rank_class = HastyRank


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


def test_results_of_attempts_that_did_not_count_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that hands on what a failed task left, to a broker that believes it: what was made from it is seen."""

    def hand_over_anything(held: Holdings, outcome: Outcome) -> None:
        for at in range(outcome.count):
            ready, _ = held._handover.made((outcome.grant, outcome.lo + at), pick(outcome.offsets, outcome.payload, at))
            for taker in ready:
                held.wait(taker.grant, taker.offset, taker.offset + 1)

    caught = []
    for seed in range(SEEDS):
        with monkeypatch.context() as patch:
            patch.setattr(Holdings, "_hand_over", hand_over_anything)
            patch.setattr(follow, "misses", lambda batch, offset: False)
            patch.setattr(follow, "over", lambda batch, lo, hi: over(batch, lo, hi) and False)
            try:
                run_seed(seed)
            except Violation as problem:
                caught.append(str(problem))
        if any("is not made of" in text for text in caught):
            run_seed(seed)
            return
    pytest.fail(f"{SEEDS} seeds did not show it, only {caught}")


def test_a_rank_that_guesses_is_caught() -> None:
    """Idle ranks want what waits behind longer tasks, and there is no fault: an attempt that starts twice is seen."""

    def run(cluster_class: type[Cluster], seed: int) -> None:
        world = cluster_class(seed, Plan(nodes=1, ranks_per_node=8))
        client = world.join()
        for number in range(1, 5):
            workload.an_uneven_map(client, random.Random(f"{seed} {number}"))
            world.run(lambda number=number: len(client.results) == 600 * number)

    caught: list[str] = []
    for seed in range(10):
        run(Cluster, seed)
        try:
            run(NoPermits, seed)
        except Violation as problem:
            caught.append(str(problem))
    print(f"{len(caught)} of 10 runs")
    assert caught and all("starts again" in text for text in caught)
