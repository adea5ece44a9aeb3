"""Asks the desk of a real ledger as the loop does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from pyfi_hpc.ledger.front_desk import FrontDesk
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.model.deployment import CodeSpec, DeploymentSpec, SocketSpec
from pyfi_hpc.model.effects import AskDesk
from pyfi_hpc.model.events import AskAnswered

COMMIT = "a" * 40


@dataclass
class Asker:
    """Asks the desk as the loop does, and keeps what it tells the broker besides the answer."""

    desk: FrontDesk
    ledger: PostgresLedger
    user: str = "ada"
    told: list[Any] = field(default_factory=list)

    def __call__(self, verb: str, view: Any = None, user: str = "", **body: Any) -> Any:
        ok, answer = self.ask(verb, view, user, body)
        assert ok, answer
        return answer

    def refused(self, verb: str, user: str = "", **body: Any) -> Any:
        ok, answer = self.ask(verb, None, user, body)
        assert not ok, answer
        assert set(answer) == {"code", "what", "where", "fix"}
        return answer

    def ask(self, verb: str, view: Any, user: str, body: Any) -> tuple[bool, Any]:
        query = AskDesk(b"peer", "client", user or self.user, 7, verb, msgspec.msgpack.encode(body), view)  # type: ignore[arg-type]
        *self.told, answer = self.desk(query)
        assert isinstance(answer, AskAnswered)
        assert (answer.peer, answer.request) == (b"peer", 7)
        return answer.ok, msgspec.msgpack.decode(answer.body)


@pytest.fixture
def ask(ledger_url: str) -> Iterator[Asker]:
    ledger = PostgresLedger(ledger_url)
    desk = FrontDesk(ledger_url, ledger.numbers)
    yield Asker(desk, ledger)
    desk.close()
    ledger.close()


@pytest.fixture
def fill(ledger_url: str) -> Iterator[Callable[..., None]]:
    """Commits records to the ledger that the desk reads."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    seqs = iter(range(1, 1000))

    def commit(*records: Any) -> None:
        ledger.commit(list(records), next(seqs))

    yield commit
    ledger.close()


def spec(*functions: str, commit: str = COMMIT, name: str = "digits") -> Any:
    code = CodeSpec("/home/ada/digits", commit, "", "digits", "env1", "/e/bin/python", "/c/digits")
    sockets = [SocketSpec(f"{name}.{f}", f, ["x", "*rest", "**more"]) for f in functions]
    return msgspec.to_builtins(DeploymentSpec(name, code, sockets, 1.5, True))
