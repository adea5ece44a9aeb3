"""Procrastinate on a Postgres of its own: two workers as processes. It has no results: the client looks for the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import procrastinate
import psycopg
from peer import NotThere, Peer, ended, function, serve, spawn, until

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["PERF_PEER_POSTGRES"]))
TASKS = {name: app.task(name=name)(function(name)) for name in ("noop", "wait", "chunk", "count", "mark")}
_NAMES = {
    "noop": ("value",), "wait": ("seconds",), "chunk": ("values",), "mark": ("folder", "number", "seconds"),
}  # fmt: skip


class Procrastinate(Peer):
    note = "Postgres with fsync; no results, the client polls the number of open jobs each ms"
    returns = False

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.stack = ExitStack()
        self.sync = self.stack.enter_context(
            app.replace_connector(procrastinate.SyncPsycopgConnector(conninfo=postgres))
        )
        self.stack.enter_context(self.sync.open())
        self.sync.schema_manager.apply_schema()
        self.postgres, self.count = postgres, workers
        self.eye = psycopg.connect(postgres, autocommit=True)
        self._start_workers()
        self.map("noop", range(20))

    def _start_workers(self) -> None:
        self.workers = [spawn(__file__, "worker") for _ in range(self.count)]

    def stop(self) -> None:
        ended(self.workers)
        self.stack.close()

    def submit(self, name: str, *args: Any) -> Any:
        return self.sync.configure_task(name).defer(**_arguments(name, args))

    def results(self, handles: list[Any]) -> list[Any]:
        until(lambda: not self._open(), "all jobs done", 300, 0.001)
        return [None] * len(handles)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        jobs = [_arguments(name, (item,)) for item in items]
        return self.results(self.sync.configure_task(name).batch_defer(*jobs))

    def fan(self, width: int) -> None:
        raise NotThere("no results, so nothing to take")

    def chain(self, tasks: int) -> None:
        for _ in range(tasks):
            self.results([self.submit("noop", 1)])

    def keep(self, tasks: int, folder: str, seconds: float) -> None:
        self.sync.configure_task("mark").batch_defer(*(_arguments("mark", (folder, k, seconds)) for k in range(tasks)))

    def _open(self) -> bool:
        sql = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        row = self.eye.execute(sql).fetchone()
        return bool(row and row[0])

    def coordinators(self) -> tuple[list[int], str]:
        return [], "Postgres"

    def restart(self) -> str:
        dead = [worker for worker in self.workers if worker.poll() is not None]
        for worker in dead:
            self.workers.remove(worker)
            self.workers.append(spawn(__file__, "worker"))
        return f"Postgres and {len(dead)} workers that had ended"


def _arguments(name: str, args: tuple[Any, ...]) -> dict[str, Any]:
    if name == "twice":
        raise NotThere("JSON takes no arrays")
    return dict(zip(_NAMES[name], args, strict=True))


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        app.run_worker(concurrency=1, fetch_job_polling_interval=1.0, install_signal_handlers=True)
    else:
        serve(Procrastinate())
