"""executorlib: a SingleNodeExecutor whose workers stay (block allocation), its fast mode."""

from __future__ import annotations

from typing import Any

from peer import Peer, function, serve


class Executorlib(Peer):
    note = "SingleNodeExecutor, block_allocation; in memory"

    def start(self, workers: int, folder: str, postgres: str) -> None:
        from executorlib import SingleNodeExecutor

        self.pool = SingleNodeExecutor(max_workers=workers, block_allocation=True, hostname_localhost=True)
        self.map("noop", range(10))

    def stop(self) -> None:
        self.pool.shutdown()

    def submit(self, name: str, *args: Any) -> Any:
        return self.pool.submit(function(name), *args)


if __name__ == "__main__":
    serve(Executorlib())
