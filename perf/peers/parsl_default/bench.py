"""Parsl as its documentation configures it for one machine."""

from __future__ import annotations

from typing import Any

from parsl_peer import ParslPeer
from peer import serve


class Default(ParslPeer):
    note = "HighThroughputExecutor, defaults; in memory"

    def config(self, workers: int, folder: str) -> Any:
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        executor = HighThroughputExecutor(
            label="htex", max_workers_per_node=workers, address="127.0.0.1",
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )  # fmt: skip
        return Config(executors=[executor], run_dir=f"{folder}/runinfo")


if __name__ == "__main__":
    serve(Default())
