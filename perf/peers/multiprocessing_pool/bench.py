"""multiprocessing.Pool of the standard library."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from typing import Any

from peer import Peer, function, serve


class Pool(Peer):
    note = "in memory, one machine"

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.pool = multiprocessing.Pool(workers)
        self.map("noop", range(100))

    def stop(self) -> None:
        self.pool.terminate()
        self.pool.join()

    def submit(self, name: str, *args: Any) -> Any:
        return self.pool.apply_async(function(name), args)

    def results(self, handles: list[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.imap(function(name), items, 1))

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        return self.pool.map(function("noop"), items, size)


if __name__ == "__main__":
    serve(Pool())
