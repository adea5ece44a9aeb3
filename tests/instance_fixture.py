"""Private instances for tests: real Postgres, broker, agent and ranks in a temporary folder.

``box`` is one for the whole session, which no test may harm beyond what it heals from by itself. ``instances`` makes
throw-away ones. Both deploy tests/trouble; environments are shared, so only the first deployment builds one. When
an instance is stopped, no process and no scratch folder of it may be left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from pyfi_hpc import settings as settings_module
from pyfi_hpc.client import deploy
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.client.session import Session
from pyfi_hpc.hosts import brokers, instance
from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.place import place_of
from pyfi_hpc.model.deployment import DeploymentSpec

TROUBLE = Path(__file__).parent / "trouble"
RANKS = 2
_JOIN_S = 30.0
#: set in the environment of all that an instance starts; also runners and what functions start inherit it
_MARK = "TEST_INSTANCE"


def until(what: Callable[[], Any], limit_s: float, text: str) -> Any:
    """Wait until ``what`` gives something true, and give that."""
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {text}"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def make_repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository with one commit."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    us = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "."], [*us, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


class Instance:
    """One private instance; its parts are started and stopped one by one or together."""

    def __init__(self, home: Path, name: str, **given: Any) -> None:
        self.settings = settings_module.load(home=str(home), instance=name, **{"scratch": str(home / "s"), **given})
        self._mark = f"{home}/{name}"
        self._sessions: list[Session] = []

    # --- parts ---

    def up(self, ranks: int = RANKS) -> Instance:
        self.start_ledger()
        self.start_broker()
        if ranks:
            self.start_agent(ranks)
        self.deploy(self.trouble())
        return self

    def start_ledger(self) -> None:
        with self._marked():
            instance.start_ledger(self.settings)

    def crash_ledger(self) -> None:
        """Postgres stops at once, as in a power cut that keeps the machine."""
        found = embedded.status(self.settings)
        assert found is not None
        os.kill(found.pid, signal.SIGQUIT)
        until(lambda: gone(found.pid), 5.0, "Postgres is gone")

    def start_broker(self) -> None:
        with self._marked():
            instance.start_broker(self.settings)

    def start_standby(self) -> None:
        with self._marked():
            brokers.start_standby(self.settings)

    def restart_broker(self) -> float:
        """Seconds between the word to the old one and the new one's readiness."""
        with self._marked():
            return brokers.restart_broker(self.settings).seconds

    def start_agent(self, ranks: int = RANKS, joined: bool = True) -> None:
        with self._marked():
            instance.start_agent(self.settings, ranks)
        if joined:
            instance.wait_for_ranks(self.settings, self.nodes, ranks, _JOIN_S)

    def stop(self) -> None:
        instance.stop(self.settings, self._shut_down)
        for session in self._sessions:
            session.close()

    def down(self) -> None:
        """Stop it all, and see that nothing is left."""
        self.stop()
        ledger = place_of(self.settings).base
        try:
            until(lambda: not self.processes(), 8.0, "all processes have ended")
            for child in instance._children:
                child.poll()
            assert not self.settings.run_dir.exists(), list(self.settings.run_dir.rglob("*"))
        finally:
            for pid, words in self.processes().items():
                print(f"left: {pid} {words}")
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            embedded.remove(self.settings)
        assert not ledger.exists()

    def _shut_down(self) -> None:
        self.session.ask("shutdown", {}, timeout=8.0)

    # --- clients ---

    def connect(self, **changes: Any) -> Session:
        """A connection of its own, with other settings if given."""
        self._sessions.append(Session(replace(self.settings, **changes)))
        return self._sessions[-1]

    @property
    def session(self) -> Session:
        return self._sessions[0] if self._sessions else self.connect()

    def executor(self, **options: Any) -> Executor:
        return Executor(session=self.session, **options)

    def ask(self, verb: str, **body: Any) -> Any:
        return self.session.ask(verb, body, timeout=20.0, repeat=True)

    def nodes(self) -> Any:
        return self.ask("info")["broker"]["nodes"]

    def output(self, task: str) -> Any:
        return self.ask("output", id=task)

    def trouble(self) -> Path:
        """The repository of misbehaving functions, on every branch the same commit."""
        folder = self.settings.home / "repositories" / "trouble"
        if not folder.exists():
            make_repository(folder, {f.name: f.read_text() for f in TROUBLE.glob("*.py")})
        return folder

    def deploy(self, source: Path | str, **given: Any) -> DeploymentSpec:
        spec = deploy.prepare(self.settings, str(source), **given)
        self.ask("deploy", **msgspec.to_builtins(spec))
        return spec

    # --- what is behind it ---

    def pid(self, name: str) -> int:
        """Of the live daemon whose name begins so."""
        found = instance.find(self.settings, name)
        assert found is not None, f"no {name} runs"
        return found.pid

    def processes(self) -> dict[int, str]:
        """Everything that was started by, or for, this instance, by pid: its words."""
        ledger = str(place_of(self.settings).base)
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    words = " ".join(process.cmdline())
                    if ledger in words or process.environ().get(_MARK) == self._mark:
                        found[process.pid] = words
        return found

    def ranks(self) -> list[int]:
        own = f"{sys.executable} -m pyfi_hpc.hosts.rank "  # not the launcher and its shells
        return [pid for pid, words in self.processes().items() if words.startswith(own)]

    def runners(self) -> list[int]:
        return [pid for pid, words in self.processes().items() if "/runner/child.py" in words]

    def log(self, name: str) -> str:
        """What a daemon has printed and logged; what it logs from now on comes at the end."""
        files = sorted(self.settings.log_dir.glob(f"{name}*"), key=lambda f: (f.suffix == ".log", f.name))
        return "".join(f.read_text(errors="replace") for f in files)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: gone(pid), 5.0, f"{pid} is gone")

    @contextmanager
    def _marked(self) -> Iterator[None]:
        os.environ[_MARK] = self._mark
        try:
            yield
        finally:
            del os.environ[_MARK]


@contextmanager
def instance_with(home: Path, name: str, ranks: int, module: str, code: str, **given: Any) -> Iterator[Instance]:
    """A private instance with one module of functions deployed, which no other test uses."""
    made = Instance(home, name, **given)
    repository = make_repository(home / "repositories" / module, {f"{module}.py": code})
    try:
        made.start_ledger()
        made.start_broker()
        made.start_agent(ranks)
        made.deploy(repository)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def test_home() -> Iterator[Path]:
    """One home for all private instances of a test run: they share mirrors and environments."""
    home = Path(tempfile.mkdtemp(prefix="pyfi-t-", dir="/tmp"))
    try:
        yield home
        left = [str(file) for file in (home / "s").glob("*")]
        assert not left, f"scratch was left: {left}"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def box(test_home: Path) -> Iterator[Instance]:
    """The instance of the session: two ranks, tests/trouble deployed."""
    made = Instance(test_home, "box")
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture
def instances(test_home: Path) -> Iterator[Callable[..., Instance]]:
    """Makes throw-away instances, not started yet; each is stopped and checked when its test ends."""
    made: list[Instance] = []

    def make(**given: Any) -> Instance:
        _numbers.append(len(_numbers))
        made.append(Instance(test_home, f"other{_numbers[-1]}", **given))
        return made[-1]

    yield make
    for one in made:
        one.down()


_numbers: list[int] = []


@pytest.fixture(scope="session")
def rough(test_home: Path) -> Iterator[Instance]:
    """An instance whose daemons and Postgres may be killed, if they are started again afterwards."""
    made = Instance(test_home, "rough")
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture
def healthy(box: Instance) -> Iterator[Instance]:
    """The session's instance; after the test it serves, with the same broker, agent and number of ranks."""
    broker, agent = box.pid("broker"), box.pid("agent")
    yield box
    assert (box.pid("broker"), box.pid("agent")) == (broker, agent)
    until(lambda: sum(node["ranks"] for node in box.nodes()) == RANKS, 10.0, "all ranks are there")
    assert list(box.executor().map("trouble.same", range(20), timeout=20)) == list(range(20))

