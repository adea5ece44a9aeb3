"""What does a session cost that holds a snapshot of the ledger for a whole run? The fault matrix (D12) allows 20 %.

    python perf/snapshot.py [--pairs N] [--tasks N] [--submits N]

Runs with and without a REPEATABLE READ session that has read every table alternate, and which comes first alternates
too, so that what else the machine does falls on both alike. A figure is the ratio of the two rates of a pair.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

import bench
import machine
import psycopg2

from pyfi_hpc import Executor
from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.connection import libpq_url
from pyfi_hpc.settings import Settings

_TABLES = ("job", "task_batch", "outcome_batch", "attempt_failed", "edge", "closed_range", "ledger_commit")


@contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Nothing that was there when it began may be cleaned up while it lasts."""
    with closing(psycopg2.connect(libpq_url(embedded.connect_url(settings)))) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = 0")
            for table in _TABLES:
                cursor.execute(f"SELECT count(*) FROM {table}")
            yield


def by_map(executor: Executor, tasks: int) -> None:
    assert sum(1 for _ in executor.map("noop.noop", range(tasks))) == tasks


def by_submit(executor: Executor, tasks: int) -> None:
    for future in [executor.submit("noop.noop", k) for k in range(tasks)]:
        future.result()


def compare(settings: Settings, name: str, work: Callable[[Executor, int], None], tasks: int, pairs: int) -> None:
    rates: dict[bool, list[float]] = {False: [], True: []}
    with Executor() as executor:
        work(executor, tasks // 10)  # the runners import, durations are learned
        for number in range(pairs):
            for holds in (False, True) if number % 2 else (True, False):
                with held(settings) if holds else nullcontext():
                    rates[holds].append(tasks / bench.timed(lambda: work(executor, tasks)))
    ratios = [with_it / without for with_it, without in zip(rates[True], rates[False], strict=True)]
    print(
        f"{name:12} {statistics.median(rates[False]):8.0f} tasks/s, with a snapshot held "
        f"{statistics.median(rates[True]):8.0f}: ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} .. {max(ratios):.3f}, {pairs} pairs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=100_000, help="of a run by map")
    parser.add_argument("--submits", type=int, default=20_000, help="of a run by single submits")
    options = parser.parse_args()
    print(f"{machine.about(False, 0)['machine']['text']}, commit {machine.commit()}")
    with bench.fresh_instance(2) as settings:
        compare(settings, "map", by_map, options.tasks, options.pairs)
        compare(settings, "submits", by_submit, options.submits, options.pairs)


if __name__ == "__main__":
    main()
