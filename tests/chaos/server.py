"""The Postgres behind an instance's ledger, as tests look at it."""

from __future__ import annotations

from contextlib import suppress

import psutil
import psycopg2
from instance_fixture import Instance, until
from invariants import Stopwatch
from ledger_fixture import administer

from pyfi_hpc.ledger import embedded

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'pyfi ledger')"


def url_of(box: Instance) -> str:
    return embedded.connect_url(box.settings)


def backends(box: Instance) -> list[int]:
    """The server's processes behind the broker's connections."""
    return [int(str(pid)) for (pid,) in administer(url_of(box), BACKENDS)]


def epoch(box: Instance) -> int:
    return int(str(administer(url_of(box), "SELECT max(epoch) FROM ledger_epoch")[0][0]))


def commits_again(box: Instance, since: int, watch: Stopwatch, what: str, goal_s: float) -> None:
    """Wait until the ledger has a commit of an epoch after ``since``, and tell how long that took."""

    def committed() -> bool:
        with suppress(psycopg2.Error):
            return bool(administer(url_of(box), f"SELECT 1 FROM ledger_commit WHERE epoch > {since} LIMIT 1"))
        return False

    until(committed, 30.0, f"a commit after epoch {since}")
    watch.tell(what, goal_s)


def server_processes(box: Instance) -> list[int]:
    """The embedded server's process and all that it has started."""
    found = embedded.status(box.settings)
    assert found is not None
    return [found.pid, *(child.pid for child in psutil.Process(found.pid).children())]
