"""The front desk: answers how the instance is, and sends for the desk when anything else is asked.

The desk imports SQLAlchemy, 0.25 s of processor time and 35 MB: a broker that is only to serve tasks never does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pyfi_hpc._version import __version__
from pyfi_hpc.errors import LedgerUnavailable, PyfiError
from pyfi_hpc.ledger.connection import make_engine, shown
from pyfi_hpc.model.effects import AskDesk
from pyfi_hpc.model.events import AskAnswered

if TYPE_CHECKING:
    from pyfi_hpc.ledger.desk import Desk

log = logging.getLogger("pyfi_hpc.desk")


class FrontDesk:
    """Callable: ``AskDesk`` to events. One thread at a time.

    Parameters
    ----------
    url : str
        The ledger's.
    numbers : callable
        About the ledger and its objects, see ``catalogue.numbers``; may raise LedgerUnavailable.
    allow, deny : tuple of str
        Patterns of repositories that may be deployed, and that may not.
    """

    def __init__(
        self, url: str, numbers: Callable[[], dict[str, Any]], allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()
    ) -> None:
        self._url = url
        self._numbers = numbers
        self.allow, self.deny = allow, deny
        self._desk: Desk | None = None

    def __call__(self, query: AskDesk) -> list[Any]:
        try:
            if query.verb == "info":
                return [self._info(query)]
            if self._desk is None:
                self._desk = self._send_for()
        except Exception as error:
            # a bug, or the package was installed anew below this process: neither may end the broker
            log.exception("verb %s of %s", query.verb, query.user)
            what = f"the broker's desk cannot answer: {type(error).__name__}: {error}"
            fix = "if pyfi_hpc was installed anew, `pyfi broker restart`; else see the broker's log"
            words = {"code": PyfiError.code, "what": what, "where": query.verb, "fix": fix}
            return [AskAnswered(query.peer, query.request, False, msgspec.msgpack.encode(words))]
        return self._desk(query)

    def close(self) -> None:
        if self._desk is not None:
            self._desk.engine.dispose()

    def _send_for(self) -> Desk:
        from pyfi_hpc.ledger.desk import Desk

        return Desk(make_engine(self._url), self.allow, self.deny)

    def _info(self, query: AskDesk) -> AskAnswered:
        broker = {name: value for name, value in (query.view or {}).items() if name != "running"}
        found: dict[str, Any] = {"ledger": {}, "objects": {}}
        try:
            found |= self._numbers()
            found["ledger"]["url"] = shown(self._url)
        except LedgerUnavailable as error:
            # nothing was committed lately, or the broker would have noticed
            broker["ledger_down"] = error.what
        answer = {"version": __version__, **found, "broker": broker}
        return AskAnswered(query.peer, query.request, True, msgspec.msgpack.encode(answer))
