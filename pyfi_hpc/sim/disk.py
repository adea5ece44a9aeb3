"""The imagined ledger of a broker: what ``ledger.writer.Writer`` is to the loop, over the ledger in memory.

A commit takes time, and may go wrong as with Postgres:

==========  =======================================================================================
slow        it takes up to ``slow_s`` more
fail        not committed (LedgerUnavailable): the same group is tried again until it is, LedgerDown is told
lose        committed, but the answer is lost: looked up by its number in a takeover of oneself,
            as ledger/postgres.py does; LedgerUp, a new epoch
lose early  the session is lost before the commit: the same takeover, then it is committed
crash       the broker dies before the commit, or after it and before the messages go
==========  =======================================================================================

If another broker has taken over meanwhile, the commit raises StaleEpoch and this broker ends. One that has nothing to
commit looks every ``BEAT_S``: without that, agents that are connected to it would stay with it and the new one would
have no nodes. Reads come after the commit of their group and hold up nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyfi_hpc.errors import LedgerUnavailable, StaleEpoch
from pyfi_hpc.ledger.memory import MemoryLedger, MemoryStore
from pyfi_hpc.ledger.writer import RETRY_FIRST_S, RETRY_MAX_S
from pyfi_hpc.model.effects import FindJob, Query, ReadPage, ReadPayloads, ReadValues
from pyfi_hpc.model.events import JobFound, LedgerDown, LedgerUp, PageRead, PayloadsRead, ValuesRead
from pyfi_hpc.model.records import Record

if TYPE_CHECKING:
    from pyfi_hpc.sim.brokers import BrokerHost


#: between two looks at who holds the ledger, seconds
BEAT_S = 0.5
#: from the loop to a thread of the writer and back, seconds
_HOP_S = 20e-6


@dataclass(slots=True)
class DiskWeather:
    """What the ledger is like now; a plan changes it. Chances are per commit."""

    commit_s: float = 0.001
    slow: float = 0.0
    slow_s: float = 0.0
    fail: float = 0.0
    lose: float = 0.0
    lose_early: float = 0.0
    #: the next commits end so, in turn: "fail", "lose", "lose early", "crash before", "crash after"
    script: list[str] = field(default_factory=list)


class Disk:
    """Commits groups of one broker."""

    #: tests replace it
    ledger_class: type[MemoryLedger] = MemoryLedger

    def __init__(self, host: BrokerHost, store: MemoryStore, weather: DiskWeather) -> None:
        self._host = host
        self._world = host.world
        self._weather = weather
        self._chance = host.world.chance(f"disk {host.name}")
        self.ledger = self.ledger_class(store)
        self.busy = False
        #: the group that is being committed
        self.records: list[Record] = []
        #: it is in the ledger, though this broker may not know yet
        self.written = False
        self._queries: list[Query] = []
        #: what was read, in order
        self.read: list[Query] = []
        self._seq = 0
        self._tries = 0

    def begin(self) -> None:
        """The broker lives: it looks now and then whether it is still the one."""
        self._world.after(BEAT_S, self._beat)

    def submit(self, records: list[Record], queries: list[Query]) -> None:
        """Start a group commit, then its reads; ``committed`` of the host is called at the end."""
        self.busy = True
        self.records, self._queries, self.written = records, queries, False
        if not records:
            self._world.after(_HOP_S, self._done, [])
            return
        self._seq += 1
        self._tries = 0
        w, chance = self._weather, self._chance
        delay = w.commit_s * (0.5 + chance.random())
        if w.slow and chance.random() < w.slow:
            self._host.count("slow commits")
            delay += w.slow_s * chance.random()
        self._world.after(delay, self._try)

    def lose_session(self) -> None:
        self.ledger.lose_session()

    def _beat(self) -> None:
        host = self._host
        if host.dead:
            return
        store = self.ledger.store
        if not host.frozen and not store.down and store.epoch != self.ledger.epoch:
            host.stale(StaleEpoch(f"another broker has taken over: {store.holder}, epoch {store.epoch}"))
            return
        self._world.after(BEAT_S, self._beat)

    def _try(self) -> None:
        host = self._host
        if host.dead:
            return
        if host.frozen:  # its committing thread too
            self._world.after(RETRY_FIRST_S, self._try)
            return
        epoch = self.ledger.epoch
        try:
            if not self._commit(self._fault()):
                return
        except LedgerUnavailable as error:
            self._later(error)
        except StaleEpoch as error:
            host.stale(error)
        else:
            up: list[Any] = []
            if self._tries or self.ledger.epoch != epoch:
                up.append(LedgerUp(self.ledger.epoch))
            self._done(up)

    def _commit(self, fault: str) -> bool:
        """False: the broker died of it."""
        host, ledger = self._host, self.ledger
        if fault:
            host.count(f"commit: {fault}")
            host.world.tell(f"ledger {host.name}", f"commit {self._seq}: {fault}")
        if fault == "crash before":
            host.kill()
            return False
        if fault == "fail":
            raise LedgerUnavailable(where="imagined")
        if fault == "lose early":
            ledger.lose_session()
        ledger.commit(self.records, self._seq)
        wrote, self.written = not self.written, True
        if wrote:
            host.cluster.audit.follow()
            if host.world.story is not None:
                for record in self.records:
                    host.world.tell(f"ledger {host.name}", "", record)
        if fault == "crash after":
            host.kill()
            return False
        if fault == "lose" and wrote:  # else it was only looked up, and what was not sent has no answer
            ledger.lose_session()
            if self._chance.random() < 0.5:
                raise LedgerUnavailable("the answer to the commit was lost", where="imagined")
            ledger.commit(self.records, self._seq)  # replaced at once, as ledger.postgres tries twice
        return True

    def _fault(self) -> str:
        w, chance = self._weather, self._chance
        if w.script:
            return w.script.pop(0)
        for name, share in (("fail", w.fail), ("lose", w.lose), ("lose early", w.lose_early)):
            if share and chance.random() < share:
                return name
        return ""

    def _later(self, error: LedgerUnavailable) -> None:
        if not self._tries:
            self._host.tell(LedgerDown(error.what))
        self._tries += 1
        pause = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(self._tries, 10)) * (0.5 + self._chance.random() / 2)
        self._world.after(pause, self._try)

    def _done(self, events: list[Any]) -> None:
        if self._host.dead:
            return
        queries, self._queries, self.records = self._queries, [], []
        self.busy = False
        for query in queries:
            self._world.after(self._weather.commit_s * self._chance.random(), self._read, query)
        self._host.committed(events)

    def _read(self, query: Query) -> None:
        reader = _READERS.get(type(query))
        if reader is None or self._host.dead:
            return
        try:
            self._host.tell(reader(self.ledger, query))
            self.read.append(query)
        except LedgerUnavailable:
            self._world.after(RETRY_FIRST_S, self._read, query)


def _page(ledger: MemoryLedger, q: ReadPage) -> PageRead:
    page = ledger.page(q.job, q.cursor, q.bytes_max)
    if page is None:
        return PageRead(q.peer, q.job, False, "", [], q.cursor, False, -1, b"", "")
    return PageRead(
        q.peer, q.job, True, page.owner, page.ranges, page.cursor, page.more, page.total, page.shape, page.name
    )


_READERS: dict[type, Any] = {
    FindJob: lambda ledger, q: JobFound(q.key, ledger.find_job(q.owner, q.key)),
    ReadPayloads: lambda ledger, q: PayloadsRead(ledger.payloads(q.batches)),
    ReadValues: lambda ledger, q: ValuesRead(q.wanted, ledger.values(q.wanted)),
    ReadPage: _page,
}
