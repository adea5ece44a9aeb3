"""pyfi_hpc: an instance of its own with broker, agent, ranks and Postgres; every task and outcome is durable."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import bench as suite
from peer import Peer, serve

from pyfi_hpc import Executor
from pyfi_hpc.hosts import instance


class Pyfi(Peer):
    note = "Postgres with fsync, CURVE; all tasks and outcomes durable"
    depends = True

    def start(self, workers: int, folder: str, postgres: str) -> None:
        self.stack = ExitStack()
        self.settings = self.stack.enter_context(suite.fresh_instance(workers, "arrays", name="peer"))
        self.executor = self.stack.enter_context(Executor())
        suite.warm(self.executor)

    def stop(self) -> None:
        self.stack.close()

    def submit(self, name: str, *args: Any) -> Any:
        return self.executor.submit(f"{'arrays' if name == 'twice' else 'noop'}.{name}", *args)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return list(self.executor.map(f"noop.{name}", items))

    def coordinators(self) -> tuple[list[int], str]:
        return [suite.daemon_process(self.settings, "broker").pid], "the broker"

    def restart(self) -> str:
        instance.start_broker(self.settings)
        return "pyfi broker start"


if __name__ == "__main__":
    serve(Pyfi())
