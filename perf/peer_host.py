"""One peer as a process of its own in its own environment: started, asked, killed, and nothing of it stays."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bench
import psutil
import venvs

from pyfi_hpc import settings as settings_module
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.ledger import embedded
from pyfi_hpc.settings import Settings

PEERS = bench.HERE / "peers"
OURS = "pyfi"
#: these get a Postgres of their own, of the programs that the ledger uses
_ON_POSTGRES = {"procrastinate", "pgqueuer"}
_START_S = 120.0
_STOP_S = 30.0


class PeerProblem(Exception):
    """It did not answer, or not well; in its own words."""


class NotThere(Exception):
    """It has no such thing; why."""


class PeerHost:
    """A running peer."""

    def __init__(self, name: str, workers: int, folder: Path) -> None:
        self.folder = folder
        self.workers = workers
        self._postgres = _Postgres(folder) if name in _ON_POSTGRES else None
        script = PEERS / name / "bench.py"
        python = Path(sys.executable)
        path = [str(PEERS / "shared"), str(bench.HERE / "noop"), str(bench.HERE / "arrays")]
        if name == OURS:
            path += [str(bench.HERE), os.environ.get("PYTHONPATH", "")]
        else:
            python = venvs.ensure(name, script.with_name("requirements.txt"))
        self._token = secrets.token_hex(8)
        self.dsn = self._postgres.start() if self._postgres else ""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "line"))
        listener.listen()
        listener.settimeout(_START_S)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        told = {
            "SOCKET": str(folder / "line"), "TOKEN": self._token, "FOLDER": str(folder), "POSTGRES": self.dsn,
            "WORKERS": str(workers),
        }  # fmt: skip
        environment = kept | {f"PERF_PEER_{key}": value for key, value in told.items()}
        environment |= {"PYTHONPATH": ":".join(filter(None, path)), "PATH": f"{python.parent}:{os.environ['PATH']}"}
        self._log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            [str(python), "-P", str(script)], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        try:
            self._line = listener.accept()[0]
        except TimeoutError:
            raise PeerProblem(f"no word within {_START_S:.0f} s: {self.last_words()}") from None
        finally:
            listener.close()

    def begin(self) -> None:
        self.ask("start", _START_S, workers=self.workers, folder=str(self.folder), postgres=self.dsn)

    def ask(self, what: str, limit_s: float, **given: Any) -> Any:
        """One question, its answer.

        Raises
        ------
        NotThere
            It has no such thing.
        PeerProblem
            It failed, or gave no answer in time.
        """
        self._line.settimeout(limit_s)
        try:
            self._line.sendall(json.dumps({"ask": what, **given}).encode() + b"\n")
            answer = json.loads(self._read_line())
        except TimeoutError:
            raise PeerProblem(f"no answer within {limit_s:.0f} s") from None
        except (OSError, ValueError) as error:
            raise PeerProblem(f"it ended: {self.last_words() or error}") from None
        if "not_there" in answer:
            raise NotThere(answer["not_there"])
        if "error" in answer:
            raise PeerProblem(answer["error"])
        return answer["value"]

    def _read_line(self) -> bytes:
        found = b""
        while not found.endswith(b"\n"):
            piece = self._line.recv(1 << 16)
            if not piece:
                raise OSError("the line is closed")
            found += piece
        return found

    def last_words(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def kill(self, pids: list[int]) -> None:
        """kill -9, of Postgres where that holds the tasks."""
        for pid in pids or ([self._postgres.pid] if self._postgres else []):
            killed = psutil.Process(pid)
            killed.send_signal(signal.SIGKILL)
            bench.until(lambda p=killed: not _lives(p), 20, f"{pid} is dead")  # type: ignore[misc]

    def restart_postgres(self) -> None:
        if self._postgres:
            self._postgres.start()

    def close(self) -> None:
        """Stop it in order if it answers; then end whatever is left of it."""
        with suppress(PeerProblem, NotThere):
            if self.process.poll() is None:
                self.ask("stop", _STOP_S)
        if hasattr(self, "_line"):
            self._line.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        for _ in range(20):
            left = self._left()
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            if not left:
                break
            time.sleep(0.1)
        self.process.wait()
        self._log.close()
        if self._postgres:
            self._postgres.stop()

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PERF_PEER_TOKEN") == self._token:
                    found.append(process)
        return found


@contextmanager
def running(name: str, workers: int) -> Iterator[PeerHost]:
    """A started peer; ``venvs.InstallFailed`` or PeerProblem if there is none."""
    with tempfile.TemporaryDirectory(prefix=f"pyfi-peer-{name[:8]}-", ignore_cleanup_errors=True) as folder:
        host: PeerHost = object.__new__(PeerHost)
        try:
            host.__init__(name, workers, Path(folder))  # type: ignore[misc]  # what it started must end if it fails
            host.begin()
            yield host
        finally:
            if hasattr(host, "process"):
                host.close()
            elif getattr(host, "_postgres", None):
                host._postgres.stop()  # type: ignore[union-attr]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _Postgres:
    """A server for one peer."""

    def __init__(self, folder: Path) -> None:
        self._settings: Settings = settings_module.load(home=str(folder / "pg"), instance="peer")

    def start(self) -> str:
        """Its address as other libraries read it. Right after its death it may need more than one try."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return embedded.start(self._settings).url.replace("+psycopg2", "")
            except PyfiError as error:
                if time.monotonic() > deadline:
                    raise PeerProblem(str(error)) from None
                time.sleep(0.5)

    @property
    def pid(self) -> int:
        found = embedded.status(self._settings)
        assert found is not None
        return found.pid

    def stop(self) -> None:
        embedded.stop(self._settings)
        embedded.remove(self._settings)
