"""What every peer answers: the same work through the same few functions, asked over a socket as JSON lines.

A peer is a class with ``start``, ``submit``, ``results`` and, where it has better, ``map`` and others; ``serve``
answers the driver. Functions are those of perf/noop and perf/arrays, by name. Runs in the peer's environment: the
standard library, psutil and numpy.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

#: environment variables that the driver sets
SOCKET, TOKEN = "PERF_PEER_SOCKET", "PERF_PEER_TOKEN"


class NotThere(Exception):
    """The peer cannot do that; why."""


def function(name: str) -> Callable[..., Any]:
    """The function of that name, importable in every process of the peer."""
    found: Callable[..., Any] = getattr(importlib.import_module("arrays" if name == "twice" else "noop"), name)
    return found


class Peer:
    """One peer; a subclass for each."""

    #: what was called and how it was set up, for the table's foot
    note = ""
    #: a handle may be an argument of another call; else the client waits between
    depends = False
    #: results come back
    returns = True

    def start(self, workers: int, folder: str, postgres: str) -> None:
        raise NotThere("start")

    def stop(self) -> None:
        pass

    def submit(self, name: str, *args: Any) -> Any:
        raise NotThere("submit")

    def results(self, handles: list[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return self.results([self.submit(name, item) for item in items])

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        """No-op calls in chunks; by hand where the peer has none: a call of a function that takes many."""
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        return [value for part in self.map("chunk", parts) for value in part or [None] * size]

    def coordinators(self) -> tuple[list[int], str]:
        """The processes without which nothing goes on, and what they are."""
        return [os.getpid()], "the program itself"

    def restart(self) -> str:
        """What the documentation says to start again after that; its words for the table."""
        raise NotThere("nothing to start again: the tasks lived in the program")

    # --- the work ----------------------------------------------------------------------------------

    def ask_map(self, tasks: int) -> Any:
        return _seconds(lambda: self._check(self.map("noop", range(tasks)), tasks))

    def ask_chunks(self, tasks: int, size: int) -> Any:
        return _seconds(lambda: self._check(self.map_chunks(list(range(tasks)), size), tasks))

    def ask_submits(self, tasks: int) -> Any:
        return _seconds(lambda: self._check(self.results([self.submit("noop", k) for k in range(tasks)]), tasks))

    def ask_round_trip(self, tasks: int) -> Any:
        return [_seconds(lambda: self.results([self.submit("noop", 1)])) for _ in range(tasks)]

    def ask_wait(self, tasks: int, seconds: float) -> Any:
        """Wall seconds, and how long the tasks took together."""
        begun = time.perf_counter()
        taken = self.map("wait", [seconds] * tasks)
        wall = time.perf_counter() - begun
        return [wall, sum(taken) if self.returns else tasks * seconds]

    def ask_chain(self, tasks: int) -> Any:
        return _seconds(lambda: self.chain(tasks))

    def chain(self, tasks: int) -> None:
        last: Any = 1
        for _ in range(tasks):
            last = self.submit("noop", last)
            if not self.depends:
                last = self.results([last])[0]
        self._check(self.results([last]) if self.depends else [last], 1)

    def ask_fan(self, tasks: int) -> Any:
        return _seconds(lambda: self.fan(tasks))

    def fan(self, width: int) -> None:
        root = self.submit("noop", 1)
        if not self.depends:
            root = self.results([root])[0]
        middle = [self.submit("noop", root) for _ in range(width)]
        if not self.depends:
            middle = self.results(middle)
        found = self.results([self.submit("count", *middle)])
        assert found == [width] or not self.returns, found

    def ask_arrays(self, tasks: int) -> Any:
        import numpy

        array = numpy.arange(125_000, dtype=numpy.float64)
        begun = time.perf_counter()
        found = self.results([self.submit("twice", array) for _ in range(tasks)])
        assert all(result[-1] == 2 * array[-1] for result in found)
        return time.perf_counter() - begun

    def ask_keep(self, tasks: int, folder: str, seconds: float) -> Any:
        """Submit tasks that nobody waits for; who must be killed."""
        self.keep(tasks, folder, seconds)
        return self.coordinators()

    def keep(self, tasks: int, folder: str, seconds: float) -> None:
        self._kept = [self.submit("mark", folder, k, seconds) for k in range(tasks)]

    def ask_restart(self) -> Any:
        return self.restart()

    def ask_about(self) -> Any:
        return {"note": self.note, "depends": self.depends, "pid": os.getpid()}

    def _check(self, found: list[Any], count: int) -> None:
        assert len(found) >= count, f"{len(found)} of {count} results"


def _seconds(what: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def serve(peer: Peer) -> None:
    """Answer the driver until it closes the line."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.environ[SOCKET])
    with line.makefile("rw") as pipe:
        for text in pipe:
            asked = json.loads(text)
            name = asked.pop("ask")
            try:
                what = peer.start if name == "start" else peer.stop if name == "stop" else getattr(peer, f"ask_{name}")
                answer = {"value": what(**asked)}
            except NotThere as error:
                answer = {"not_there": str(error)}
            except Exception as error:  # the peer's own words go into the table
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            pipe.write(json.dumps(answer) + "\n")
            pipe.flush()


def spawn(*words: str, cwd: str | Path | None = None) -> subprocess.Popen[bytes]:
    """A part of the peer, beside this process."""
    return subprocess.Popen([sys.executable, *words], cwd=cwd, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def ended(parts: list[subprocess.Popen[bytes]]) -> None:
    for part in parts:
        part.terminate()
    for part in parts:
        try:
            part.wait(10)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()


def until(what: Callable[[], Any], text: str, limit_s: float = 60.0, every_s: float = 0.01) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:.0f} s: {text}")
        time.sleep(every_s)
    return found


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def processes_named(name: str) -> list[int]:
    """Processes of this peer whose program is called so."""
    mine, found = os.environ[TOKEN], []
    for process in psutil.process_iter():
        try:
            if name in process.name() and process.environ().get(TOKEN) == mine:
                found.append(process.pid)
        except psutil.Error:
            pass
    return found
