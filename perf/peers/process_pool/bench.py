"""concurrent.futures.ProcessPoolExecutor of the standard library."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from peer import Peer, function, serve


class ProcessPool(Peer):
    note = "in memory, one machine"

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.pool = ProcessPoolExecutor(workers)
        self.map("noop", range(100))

    def stop(self) -> None:
        self.pool.shutdown()

    def submit(self, name: str, *args: Any) -> Any:
        return self.pool.submit(function(name), *args)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function(name), items))

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        return list(self.pool.map(function("noop"), items, chunksize=size))


if __name__ == "__main__":
    serve(ProcessPool())
