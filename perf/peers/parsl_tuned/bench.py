"""Parsl with what makes it faster: tasks fetched ahead, quick polling, no strategy, no log."""

from __future__ import annotations

from typing import Any

from parsl_peer import ParslPeer
from peer import serve


class Tuned(ParslPeer):
    note = "prefetch 64, poll 1 ms, no strategy, no log; in memory"

    def config(self, workers: int, folder: str) -> Any:
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        executor = HighThroughputExecutor(
            label="htex", max_workers_per_node=workers, address="127.0.0.1", prefetch_capacity=64, poll_period=1,
            worker_debug=False, provider=LocalProvider(init_blocks=1, max_blocks=1),
        )  # fmt: skip
        return Config(
            executors=[executor], run_dir=f"{folder}/runinfo", strategy="none", initialize_logging=False,
        )  # fmt: skip


if __name__ == "__main__":
    serve(Tuned())
