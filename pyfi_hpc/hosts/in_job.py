"""The ledger of a broker that runs inside an allocation (``--broker=job``): started and stopped with it.

Where its data lies decides what outlives the allocation::

    PYFI_LEDGER     a server anywhere: nothing to start, nothing to move
    ordinary user   PYFI_HOME/INSTANCE/ledger: every node sees it, so the next allocation goes on with it, wherever
                    Slurm places that. It must be a file system with locks and fsync, as home folders over NFS are
    root            /var/lib/pyfi-hpc on the node's own disk, because Postgres refuses root and nobody else may
                    enter root's folders. The next allocation must run on that node (-w NODE), and is told so;
                    it never begins with an empty ledger instead

Postgres guards its folder on one host only. Between hosts our lease does, and an allocation that was killed
leaves it behind: it is void once Slurm says that the allocation has ended.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyfi_hpc.adapters import address, slurm
from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.errors import SiteError
from pyfi_hpc.ledger import embedded, place
from pyfi_hpc.settings import Settings

log = logging.getLogger("pyfi_hpc.broker")


@contextmanager
def ledger(settings: Settings) -> Iterator[Settings]:
    """The settings of a broker on this node, with its ledger started; stopped at the end.

    Raises
    ------
    SiteError
        The ledger of an earlier allocation lies on the disk of another node.
    BrokerHeld
        Another allocation that still runs has it.
    LedgerUnavailable, PostgresMissing
        It does not start.
    """
    if not settings.bind:
        settings = replace(settings, bind=address.for_nodes())
    if settings.ledger:
        yield settings
        return
    here = slurm.environment()
    _find_data(settings)
    _void_lease(settings, here)
    server = embedded.start(settings)
    log.info("ledger in %s, PostgreSQL %s", server.data, server.version)
    mark = {"host": socket.gethostname(), "data": str(server.data), "job": 0, "restarts": 0}
    if here is not None:
        mark |= {"job": here.slurm_job_id, "restarts": here.restarts}
    write_json(_mark(settings), mark)
    try:
        yield settings
    finally:
        embedded.stop(settings)


def _find_data(settings: Settings) -> None:
    """See that the ledger of the last allocation is here, if there was one."""
    last = _read_mark(settings)
    if last and last["host"] != socket.gethostname() and not Path(last["data"]).is_dir():
        raise SiteError(
            f"the ledger of instance {settings.instance!r} lies on {last['host']}",
            where=last["data"],
            fix=f"ask for that node (-w {last['host']}), or set PYFI_LEDGER to a server; "
            f"to give up what it holds, delete {_mark(settings)}",
        )


def _void_lease(settings: Settings, here: slurm.SlurmEnvironment | None) -> None:
    """Take away the lease of an allocation that was killed: this job before its requeue, or one that ended."""
    last, holder = _read_mark(settings), place.lease_host(settings)
    if here is None or not last or last["host"] != holder or holder == socket.gethostname():
        return
    job = int(last["job"])
    if job == here.slurm_job_id:
        ended = int(last["restarts"]) < here.restarts
    else:
        entry = slurm.queue([job]).get(job)
        ended = entry is None or entry.state not in slurm.ALIVE
    if ended:
        log.warning("the ledger was not closed by allocation %d on %s, which has ended", job, holder)
        place.void_lease(settings, holder)


def _mark(settings: Settings) -> Path:
    return settings.instance_dir / "in_job.json"


def _read_mark(settings: Settings) -> dict[str, Any] | None:
    try:
        found = json.loads(_mark(settings).read_text())
        return found if {"host", "data", "job", "restarts"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
