"""Dask distributed: a scheduler and workers of one thread as processes of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peer import Peer, ended, free_port, function, serve, spawn


class Dask(Peer):
    note = "scheduler and workers as processes, one thread each; in memory"
    depends = True

    def start(self, workers: int, folder: str, postgres: str) -> None:
        from distributed import Client

        self.workers, self.folder, self.port = workers, folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._start_scheduler()
        self.worker = self._start_workers()
        self.client = Client(self.address, timeout=60)
        self.client.wait_for_workers(workers, timeout=60)
        self.map("noop", range(100))

    def _start_scheduler(self) -> Any:
        words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port)]
        return spawn(*words, "--no-dashboard", cwd=self.folder)

    def _start_workers(self) -> Any:
        words = ["-m", "distributed.cli.dask_worker", self.address, "--nworkers", str(self.workers), "--nthreads", "1"]
        return spawn(*words, "--no-dashboard", cwd=self.folder)

    def stop(self) -> None:
        self.client.close()
        ended([self.worker, self.scheduler])

    def submit(self, name: str, *args: Any) -> Any:
        return self.client.submit(function(name), *args, pure=False)

    def results(self, handles: list[Any]) -> list[Any]:
        return self.client.gather(handles)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return self.client.gather(self.client.map(function(name), list(items), pure=False))

    def coordinators(self) -> tuple[list[int], str]:
        return [self.scheduler.pid], "the scheduler"

    def restart(self) -> str:
        self.scheduler.wait(10)
        self.scheduler = self._start_scheduler()
        ended([self.worker])
        self.worker = self._start_workers()
        return "scheduler and workers"


if __name__ == "__main__":
    serve(Dask())
