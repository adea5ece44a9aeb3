"""How a standby sees that the holder of a ledger lives, has frozen or has gone, on a real Postgres."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from instance_fixture import until
from ledger_fixture import administer
from records import admitted, opened

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, StaleEpoch
from pyfi_hpc.ledger import pulse
from pyfi_hpc.ledger.embedded import EmbeddedServer
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.pulse import Lookout

GROUP = [opened(1), admitted(1, 1)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same times, shorter."""
    monkeypatch.setattr(pulse, "FROZEN_S", 0.5)
    monkeypatch.setattr(pulse, "GRACE_S", 0.5)
    monkeypatch.setattr(pulse, "YIELD_S", 0.5)


@pytest.fixture
def make(ledger_url: str) -> Iterator[Callable[[], PostgresLedger]]:
    made: list[PostgresLedger] = []

    def new() -> PostgresLedger:
        made.append(PostgresLedger(ledger_url))
        return made[-1]

    yield new
    for ledger in made:
        ledger.close()


@pytest.fixture
def lookout(ledger_url: str, short: None) -> Iterator[Lookout]:
    made = Lookout(ledger_url)
    yield made
    made.close()


def beats(ledger: PostgresLedger, lookout: Lookout, seconds: float) -> bool:
    """Beat and look in turns; whether the ledger ever looked vacant."""
    end = time.monotonic() + seconds
    vacant = False
    while time.monotonic() < end:
        ledger.beat()
        vacant = lookout.vacant() or vacant
        time.sleep(0.05)
    return vacant


def looks_until_vacant(lookout: Lookout, limit_s: float = 5.0) -> float:
    """Seconds until it looks vacant."""
    begun = time.monotonic()
    until(lookout.vacant, limit_s, "the ledger looks vacant")
    return time.monotonic() - begun


def cut(url: str, name: str) -> None:
    """End the sessions whose name begins so, and wait until they are gone."""
    sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
    assert administer(url, f"SELECT pg_terminate_backend(pid) {sessions}", name + "%")
    until(lambda: not administer(url, f"SELECT pid {sessions}", name + "%"), 5.0, "the sessions have gone")


def test_a_live_broker_is_waited_for_and_not_disturbed(
    make: Callable[[], PostgresLedger], lookout: Lookout, ledger_url: str
) -> None:
    """Looks for longer than a frozen broker has: never vacant, the epoch stays, commits go on."""
    broker = make()
    broker.take_over("first")
    assert not beats(broker, lookout, 1.5)
    broker.commit(GROUP, 1)  # type: ignore[arg-type]
    assert administer(ledger_url, "SELECT epoch FROM ledger_epoch") == [(1,)]
    with pytest.raises(BrokerHeld):
        make().take_over("second")


def test_a_broker_that_ended_leaves_at_once(make: Callable[[], PostgresLedger], lookout: Lookout) -> None:
    """Its sessions are gone: free within a few looks, no grace."""
    broker = make()
    broker.take_over("first")
    broker.beat()
    assert not lookout.vacant()
    broker.close()
    assert looks_until_vacant(lookout) < 0.4


def test_a_frozen_broker_is_replaced_and_refused_when_it_wakes(
    make: Callable[[], PostgresLedger], lookout: Lookout
) -> None:
    """No beat for longer than the limit: another takes over; the first one's next beat and commit are refused."""
    broker, second = make(), make()
    broker.take_over("first")
    assert not beats(broker, lookout, 0.2)
    assert looks_until_vacant(lookout) > 0.3
    assert second.take_over("second").epoch == 2
    with pytest.raises(StaleEpoch, match="second"):
        broker.beat()
    with pytest.raises(StaleEpoch, match="second"):
        broker.commit(GROUP, 1)  # type: ignore[arg-type]
    second.commit(GROUP, 1)  # type: ignore[arg-type]


def test_a_broker_that_never_beat_is_not_taken_for_frozen(
    make: Callable[[], PostgresLedger], lookout: Lookout
) -> None:
    """It may be reading what is unfinished, or be of an older version: its lock alone counts."""
    make().take_over("first")
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        assert not lookout.vacant()
        time.sleep(0.05)


def test_an_old_beat_that_is_seen_for_the_first_time_does_not_count(
    make: Callable[[], PostgresLedger], lookout: Lookout
) -> None:
    """After a machine was suspended all beats look old: the broker has time to beat again."""
    broker = make()
    broker.take_over("first")
    broker.beat()
    time.sleep(0.8)
    assert not lookout.vacant()
    assert not beats(broker, lookout, 1.0)


def test_a_broker_that_lives_gets_its_lost_session_back(
    make: Callable[[], PostgresLedger], lookout: Lookout, ledger_url: str
) -> None:
    """The server ends the sessions that commit: the beats say that it lives, and a commit of nothing takes the lock."""
    broker = make()
    broker.take_over("first")
    assert broker.beat()
    assert not lookout.vacant()
    cut(ledger_url, "pyfi ledger")
    assert not broker.beat()
    assert not lookout.vacant()
    broker.commit([], 1)
    assert broker.beat()
    assert not lookout.vacant()
    assert broker.epoch == 2


def test_a_broker_that_lives_and_does_not_come_back_is_replaced(
    make: Callable[[], PostgresLedger], lookout: Lookout, ledger_url: str
) -> None:
    """It beats and never takes the lock again: after the grace it is another's turn."""
    broker = make()
    broker.take_over("first")
    broker.beat()
    assert not lookout.vacant()
    cut(ledger_url, "pyfi ledger")
    assert beats(broker, lookout, 1.0)


def test_after_postgres_was_away_the_holder_goes_first(
    make: Callable[[], PostgresLedger], lookout: Lookout, ledger_url: str
) -> None:
    """All sessions are lost: the standby looks at once again, and waits for the broker before it takes over."""
    broker = make()
    broker.take_over("first")
    broker.beat()
    assert not lookout.vacant()
    cut(ledger_url, "pyfi")
    with pytest.raises(LedgerUnavailable):
        lookout.vacant()
    assert looks_until_vacant(lookout) >= 0.4


def test_a_successor_goes_before_other_standbys(make: Callable[[], PostgresLedger], lookout: Lookout) -> None:
    """Both wait; the lock is let go: the successor may take it at once, the other one later."""
    assert lookout.vacant()
    successor = Lookout(lookout._url, successor=True)
    broker = make()
    broker.take_over("first")
    assert not lookout.vacant()
    assert not successor.vacant()
    broker.close()
    assert looks_until_vacant(successor) < 0.4
    assert not lookout.vacant()
    successor.close()
    assert looks_until_vacant(lookout) < 2.0


def test_a_ledger_without_tables_is_vacant(ledger_server: EmbeddedServer, short: None) -> None:
    """Nobody has ever held it; whoever takes it over makes them."""
    bare = Lookout(ledger_server.url.replace("/pyfi?", "/postgres?"))
    assert bare.vacant()
    bare.close()
