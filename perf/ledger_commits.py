"""How long does a group commit take, and how many tasks a second does the ledger hold? Needs no ranks.

    python perf/ledger_commits.py [--ledger URL]

Jobs are opened, admitted and settled in one commit each (three tables); without --ledger in an embedded server
of its own. Also: round trip and bare transaction on the same connection, packing, recovery.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack as struct_pack

from pyfi_hpc.ledger import embedded, schema
from pyfi_hpc.ledger.blocks import Blocks
from pyfi_hpc.ledger.copy import pack
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.model.ids import BatchId, Epoch, GrantId, JobId, NodeName
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.records import BatchAdmitted, BatchClosed, JobOpened, OutcomeSettled, Record
from pyfi_hpc.model.states import OnFailure
from pyfi_hpc.settings import Settings

ARGUMENT, RESULT = b"x" * 100, b"y" * 20


class Filler:
    """Makes records with numbers that go on."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.next = 1
        self.seq = 0

    def records(self, jobs: int, tasks: int, settle: bool) -> list[Record]:
        made: list[Record] = []
        ask, answer = offsets_of([ARGUMENT] * tasks), offsets_of([RESULT] * tasks)
        for n in range(self.next, self.next + jobs):
            job, batch = JobId(n), BatchId(n)
            made.append(JobOpened(job, struct_pack(">QQ", 0, n), "me", "n", b"", OnFailure.FINISH, 1.0))
            made.append(
                BatchAdmitted(
                    batch, job, 0, 0, tasks, True, 1, 1, 0, 0, 0.0, ask, ARGUMENT * tasks, b""  # type: ignore[arg-type]
                )
            )  # fmt: skip
            if settle:
                made.append(
                    OutcomeSettled(
                        batch, job, 0, tasks, 1, self.epoch, GrantId(1), NodeName("n1"), 0, b"\3" * tasks,
                        bytes(8 * tasks), bytes(4 * tasks), answer, RESULT * tasks, b"", 1.0,
                    )
                )  # fmt: skip
                made.append(BatchClosed(batch))
        self.next += jobs
        return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger")
    with place(parser.parse_args().ledger) as url:
        schema.upgrade(url)
        ledger = PostgresLedger(url)
        filler = Filler(ledger.take_over("perf").epoch)
        baseline(ledger)
        print(f"{'jobs':>6} {'tasks each':>10} {'settled':>8} {'p50 ms':>9} {'p99 ms':>9} {'tasks/s':>10} {'MB/s':>7}")
        for jobs, tasks, settle, runs in (
            (1, 1, False, 500), (1, 1, True, 500), (10, 1, True, 200), (100, 1, True, 60), (1000, 1, True, 12),
            (1, 1000, True, 60), (10, 1000, True, 30), (100, 1000, True, 8),
        ):  # fmt: skip
            measure(ledger, filler, jobs, tasks, settle, runs)
        recovery(ledger, filler)
        ledger.close()


@contextmanager
def place(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="pyfi-perf-") as folder:
        settings = Settings(instance="perf", home=Path(folder) / "home", scratch=Path(folder))
        try:
            server = embedded.start(settings)
            print(f"PostgreSQL {server.version}, fsync on, {os.cpu_count()} cores")
            yield server.url
        finally:
            embedded.stop(settings)
            embedded.remove(settings)


def baseline(ledger: PostgresLedger) -> None:
    """What a round trip and an empty transaction with one row cost here, and packing without a server."""
    assert ledger._writer is not None
    cursor = ledger._writer.cursor()
    print(f"round trip            {timed(lambda: cursor.execute('SELECT 1'), 300) * 1e6:8.0f} us")

    def tiny() -> None:
        cursor.execute(
            "BEGIN; INSERT INTO ledger_commit (shard, epoch, seq, jobs, batches, outcomes, attempts, closed) "
            "SELECT 9, 0, coalesce(max(seq), 0) + 1, 0, 0, 0, 0, 0 FROM ledger_commit WHERE shard = 9"
        )
        cursor.execute("COMMIT")

    print(f"transaction, one row  {timed(tiny, 300) * 1e6:8.0f} us")
    records = Filler(Epoch(1)).records(1000, 1, True)
    print(f"packing a record      {timed(lambda: pack(records, Epoch(1), Blocks()), 20) / len(records) * 1e6:8.2f} us")


def measure(ledger: PostgresLedger, filler: Filler, jobs: int, tasks: int, settle: bool, runs: int) -> None:
    times = []
    for _ in range(runs):
        records = filler.records(jobs, tasks, settle)
        filler.seq += 1
        begun = time.perf_counter()
        ledger.commit(records, filler.seq)
        times.append(time.perf_counter() - begun)
    times.sort()
    done = jobs * tasks * runs / sum(times)
    size = len(ARGUMENT) + 4 + (len(RESULT) + 17 if settle else 0)
    print(f"{jobs:6} {tasks:10} {settle!s:>8} {times[runs // 2] * 1e3:9.2f} {times[int(runs * 0.99)] * 1e3:9.2f} "
          f"{done:10.0f} {done * size / 1e6:7.1f}")  # fmt: skip


def recovery(ledger: PostgresLedger, filler: Filler) -> None:
    """A million tasks wait in a thousand batches, among all the closed ones: how long does a takeover take?"""
    for _ in range(20):
        filler.seq += 1
        ledger.commit(filler.records(50, 1000, False), filler.seq)
    ledger.close()
    begun = time.perf_counter()
    found = ledger.take_over("perf")
    seconds = time.perf_counter() - begun
    print(f"recovery of {len(found.batches)} open batches {seconds * 1e3:8.1f} ms")


def timed(act: object, times: int) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        act()  # type: ignore[operator]
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[times // 2]


if __name__ == "__main__":
    main()
