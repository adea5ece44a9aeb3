"""The one loop: wait, hand events to the machine, carry out what it decides.

Records are committed, then messages go: what follows from a record sits behind it in the same group, and a
group leaves only when its commit is done. While one group is being committed the next one gathers, so
groups grow by themselves under load and a lone call waits for nothing. There is no timer.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Iterable, Sequence
from typing import Any

from pyfi_hpc.model.effects import Effects, Query
from pyfi_hpc.model.events import Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import ACKNOWLEDGEMENTS, Message
from pyfi_hpc.model.records import Record
from pyfi_hpc.ports import Clock, Doer, Hoarder, Journal, Machine, Port, Sender

log = logging.getLogger("pyfi_hpc.loop")

#: the loop looks at its clock at least so often, seconds
_WAIT_S_MAX = 60.0
#: a machine that has stopped waits so long for a ledger that does not answer; what is not in it was not acknowledged
_DRAIN_S = 3.0
#: descriptors of one loop: a few ports and the journal's
_READY_MAX = 16


class Loop:
    """Runs one machine on its ports until the machine has stopped and all of its messages have gone.

    Parameters
    ----------
    machine : Machine
    clock : Clock
    ports : sequence of Port
        Where events come from.
    sender : Sender
        Where messages go.
    journal : Journal, optional
        The ledger; a machine without one writes no records.
    doer : Doer, optional
        Carries out actions in the operating system.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        ports: Sequence[Port],
        sender: Sender,
        journal: Journal | None = None,
        doer: Doer | None = None,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._sender = sender
        self._journal = journal
        self._doer = doer
        #: in the order in which they are received from: what a process said goes before that it has ended
        self._ports = list(ports)
        self._hoarders = [port for port in ports if isinstance(port, Hoarder)]
        #: readable when the journal has something
        self._waitables = frozenset(journal.waitables) if journal is not None else frozenset()
        self._epoll = _epoll_of([port.waitable for port in ports] + list(self._waitables))
        #: once the machine has stopped only the journal is waited for: what comes now is for the next broker
        self._drain = _epoll_of(self._waitables)
        #: gathers while the journal is busy
        self._records: list[Record] = []
        self._queries: list[Query] = []
        self._behind: list[tuple[Peer, Message]] = []
        #: wait for the commit that is under way
        self._held: list[tuple[Peer, Message]] = []
        self._gone: list[Unreachable] = []
        #: go at the end of the round: nobody's work waits for them
        self._later: dict[Peer, list[Message]] = {}

    def run(self) -> None:
        out = Effects()
        give_up = float("inf")
        while not (self._machine.stopped and self._drained()):
            if self._machine.stopped and give_up == float("inf"):
                give_up = self._clock.monotonic() + _DRAIN_S
            if self._clock.monotonic() >= give_up:
                log.warning("= stopped without the last answers: %d records were not acknowledged", len(self._records))
                return
            events = self._wait()
            now = self._clock.monotonic()
            handle = self._machine.handle
            for event in events:
                handle(event, now, out)
            self._machine.advance(now, out)
            self._carry_out(out)
            self._send_later()

    def _drained(self) -> bool:
        journal = self._journal
        if self._records or self._queries or self._behind or self._held:
            return False
        # what the desk works on is done, or half done: whoever asked must hear of it
        return journal is None or not (journal.busy or journal.asked)

    def _wait(self) -> list[Any]:
        events: list[Any] = self._gone
        self._gone = []
        if self._machine.stopped and self._journal is not None:
            return events + self._hear_journal(self._poll(self._drain, _DRAIN_S))
        held = [port.waitable for port in self._hoarders if port.holds()]
        wait_s = 0.0 if events or held else self._machine.wake_at() - self._clock.monotonic()
        ready = self._poll(self._epoll, wait_s)
        ready.update(held)
        events = events + self._hear_journal(ready)
        for port in self._ports:
            if port.waitable in ready:
                events = events + port.receive() if events else port.receive()
        return events

    def _hear_journal(self, ready: set[int]) -> list[Any]:
        """What was committed lets its messages go; answers to queries."""
        if self._journal is None or ready.isdisjoint(self._waitables):
            return []
        committed, answers = self._journal.receive()
        if committed:
            self._send(self._held)
            self._held = []
        return answers

    @staticmethod
    def _poll(epoll: select.epoll, wait_s: float) -> set[int]:
        """Which descriptors are readable; waits until one is, or for so long."""
        return {fd for fd, _ in epoll.poll(max(0.0, min(wait_s, _WAIT_S_MAX)), _READY_MAX)}

    def _carry_out(self, out: Effects) -> None:
        if out.at_once:
            self._send(out.at_once)
            out.at_once = []
        if out.actions:
            assert self._doer is not None
            for action in out.actions:
                self._doer.do(action)
            out.actions = []
        if self._journal is None:
            if out.messages:
                self._send(out.messages)
                out.messages = []
            return
        if out.records:
            self._records += out.records
            out.records = []
        if out.queries:
            self._queries += out.queries
            out.queries = []
        if out.messages:
            self._behind += out.messages
            out.messages = []
        if self._journal.busy:
            return
        if self._records or self._queries:
            self._journal.submit(self._records, self._queries)
            self._held, self._behind = self._behind, []
            self._records, self._queries = [], []
        elif self._behind:
            self._send(self._behind)
            self._behind = []

    def _send(self, messages: list[tuple[Peer, Message]]) -> None:
        """One frame per peer, its messages in order. Who gets acknowledgements only gets them later in this round."""
        urgent: dict[Peer, None] = {}
        for peer, message in messages:
            self._later.setdefault(peer, []).append(message)
            if type(message) not in ACKNOWLEDGEMENTS:
                urgent[peer] = None
        for peer in urgent:
            self._send_to(peer, self._later.pop(peer))

    def _send_later(self) -> None:
        if self._later:
            later, self._later = self._later, {}
            for peer, batch in later.items():
                self._send_to(peer, batch)

    def _send_to(self, peer: Peer, batch: list[Message]) -> None:
        if not self._sender.send(peer, batch):
            self._gone.append(Unreachable(peer))


def _epoll_of(waitables: Iterable[int]) -> select.epoll:
    epoll = select.epoll()
    for waitable in waitables:
        epoll.register(waitable, select.EPOLLIN)
    return epoll
