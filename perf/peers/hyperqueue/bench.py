"""HyperQueue by its Python package: server and workers of one core inside this process; tasks are programs.

The package from PyPI has no ``hq`` program, so the server has no journal. No-op is ``true`` and waiting is ``sleep``,
which start faster than Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peer import NotThere, Peer, serve


class HyperQueue(Peer):
    note = "LocalCluster, tasks are programs (true, sleep), no results, no journal"
    depends = True
    returns = False

    def start(self, workers: int, folder: str, postgres: str) -> None:
        from hyperqueue.cluster import LocalCluster, WorkerConfig

        self.folder = folder
        self.cluster = LocalCluster(folder)
        for _ in range(workers):
            self.cluster.start_worker(WorkerConfig(cores=1))
        self.client = self.cluster.client()
        self.map("noop", range(10))

    def stop(self) -> None:
        self.cluster.stop()

    def _job(self) -> Any:
        from hyperqueue import Job

        return Job(default_workdir=self.folder)

    def _add(self, job: Any, name: str, args: tuple[Any, ...], deps: list[Any]) -> Any:
        if name == "wait":
            words = ["sleep", str(args[0])]
        elif name == "mark":
            words = ["sh", "-c", f"sleep {args[2]}; printf x >> {args[0]}/{args[1]}"]
        elif name in ("noop", "count"):
            words = ["true"]
        else:
            raise NotThere("programs take no arrays, and no many calls in one")
        return job.program(words, stdout=None, stderr=None, deps=deps)

    def submit(self, name: str, *args: Any) -> Any:
        job = self._job()
        self._add(job, name, args, [])
        return self.client.submit(job)

    def results(self, handles: list[Any]) -> list[Any]:
        self.client.wait_for_jobs(handles)
        return [None] * len(handles)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        job = self._job()
        for item in items:
            self._add(job, name, (item,), [])
        self.results([self.client.submit(job)])
        return [None] * len(job.tasks)

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        raise NotThere("a task is a program")

    def chain(self, tasks: int) -> None:
        job, last = self._job(), []
        for _ in range(tasks):
            last = [self._add(job, "noop", (), last)]
        self.results([self.client.submit(job)])

    def fan(self, width: int) -> None:
        job = self._job()
        root = self._add(job, "noop", (), [])
        middle = [self._add(job, "noop", (), [root]) for _ in range(width)]
        self._add(job, "count", (), middle)
        self.results([self.client.submit(job)])

    def keep(self, tasks: int, folder: str, seconds: float) -> None:
        job = self._job()
        for number in range(tasks):
            self._add(job, "mark", (folder, number, seconds), [])
        self.client.submit(job)

    def coordinators(self) -> tuple[list[int], str]:
        return super().coordinators()[0], "the program, which holds the server"


if __name__ == "__main__":
    serve(HyperQueue())
