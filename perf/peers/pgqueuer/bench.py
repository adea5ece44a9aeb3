"""PgQueuer on a Postgres of its own: two workers as processes. It has no results: the client looks for the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import asyncpg
import psycopg
from peer import NotThere, Peer, ended, function, serve, spawn, until
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.queries import Queries

_POSTGRES = os.environ["PERF_PEER_POSTGRES"]
_NAMES = ("noop", "wait", "chunk", "mark")


async def _driver() -> AsyncpgDriver:
    return AsyncpgDriver(await asyncpg.connect(_POSTGRES))


async def work() -> None:
    """A worker: entry points run their function and forget what it returned."""
    queuer = PgQueuer(await _driver())
    for name in _NAMES:

        @queuer.entrypoint(name)
        async def entry(job: Any, name: str = name) -> None:
            # not in a thread: so a worker runs one task at a time, as all others do
            function(name)(*json.loads(job.payload))

    await queuer.run()


class Queuer(Peer):
    note = "Postgres with fsync; no results, the client polls the number of open jobs each ms"
    returns = False

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.queries = Queries(self.loop.run_until_complete(_driver()))
        self.loop.run_until_complete(self.queries.install())
        self.eye = psycopg.connect(postgres, autocommit=True)
        self.workers = [spawn(__file__, "worker") for _ in range(workers)]
        self.map("noop", range(20))

    def stop(self) -> None:
        ended(self.workers)

    def submit(self, name: str, *args: Any) -> Any:
        return self.loop.run_until_complete(self.queries.enqueue(name, _payload(name, args)))

    def results(self, handles: list[Any]) -> list[Any]:
        until(lambda: not self._open(), "all jobs done", 300, 0.001)
        return [None] * len(handles)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        payloads = [_payload(name, (item,)) for item in items]
        return self.results(self._enqueue(name, payloads))

    def _enqueue(self, name: str, payloads: list[bytes | None]) -> list[Any]:
        count = len(payloads)
        return self.loop.run_until_complete(self.queries.enqueue([name] * count, payloads, [0] * count))

    def fan(self, width: int) -> None:
        raise NotThere("no results, so nothing to take")

    def chain(self, tasks: int) -> None:
        for _ in range(tasks):
            self.results([self.submit("noop", 1)])

    def keep(self, tasks: int, folder: str, seconds: float) -> None:
        self._enqueue("mark", [_payload("mark", (folder, k, seconds)) for k in range(tasks)])

    def _open(self) -> bool:
        row = self.eye.execute("SELECT EXISTS (SELECT FROM pgqueuer)").fetchone()
        return bool(row and row[0])

    def coordinators(self) -> tuple[list[int], str]:
        return [], "Postgres"

    def restart(self) -> str:
        dead = [worker for worker in self.workers if worker.poll() is not None]
        for worker in dead:
            self.workers.remove(worker)
            self.workers.append(spawn(__file__, "worker"))
        return f"Postgres and {len(dead)} workers that had ended"


def _payload(name: str, args: tuple[Any, ...]) -> bytes | None:
    if name not in _NAMES:
        raise NotThere("payloads are bytes, and nothing comes back")
    return json.dumps(args).encode()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        asyncio.run(work())
    else:
        serve(Queuer())
