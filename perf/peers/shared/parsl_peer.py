"""Parsl with its HighThroughputExecutor on this machine."""

from __future__ import annotations

from typing import Any

from peer import NotThere, Peer, function


class ParslPeer(Peer):
    depends = True

    def config(self, workers: int, folder: str) -> Any:
        raise NotImplementedError

    def start(self, workers: int, folder: str, postgres: str) -> None:
        import parsl

        self.kernel = parsl.load(self.config(workers, folder))
        self.apps: dict[str, Any] = {}
        self.map("noop", range(20))

    def stop(self) -> None:
        import parsl

        self.kernel.cleanup()
        parsl.clear()

    def submit(self, name: str, *args: Any) -> Any:
        from parsl import python_app

        if name not in self.apps:
            self.apps[name] = python_app(function(name))
        return self.apps[name](*args)

    def coordinators(self) -> tuple[list[int], str]:
        return [self.kernel.executors["htex"].interchange_proc.pid], "the interchange"

    def restart(self) -> str:
        raise NotThere("nothing can be started again: the program must run anew")
