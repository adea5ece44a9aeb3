"""Where the files of an instance's Postgres are, who runs it, and on which host it is.

Postgres itself guards a data folder on one host only: a second server elsewhere opens the same folder without
complaint. So a lease lies beside it, with host, boot and pid of the server that was started last.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, SettingsError, SiteError
from pyfi_hpc.ledger.connection import engine_url
from pyfi_hpc.ledger.programs import User
from pyfi_hpc.settings import Settings, private_folder

ROLE = DATABASE = "pyfi"
PORT = 5432  # only names the socket's file
_SOCKET_PATH_MAX = 107
#: where a ledger lies that root started
ROOT_STORE = Path("/var/lib/pyfi-hpc")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of an instance's Postgres are, and who runs it (None: we ourselves)."""

    base: Path
    run: Path
    log: Path
    user: User | None

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def lease(self) -> Path:
        return self.base / "lease.json"

    @property
    def url(self) -> str:
        return engine_url(f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.run))}&port={PORT}")


def place_of(settings: Settings) -> Place:
    log = settings.log_dir / "postgres.log"
    if os.getuid() != 0:
        base = settings.instance_dir / "ledger"
        return Place(base, settings.run_dir / "ledger", log, None)
    tag = hashlib.sha256(str(settings.instance_dir).encode()).hexdigest()[:12]
    base = ROOT_STORE / f"{settings.instance}-{tag}"
    return Place(base, base / "run", log, _server_user())


def _server_user() -> User:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(name, entry.pw_uid, entry.pw_gid)
    raise SiteError(
        "Postgres refuses to run as root, and there is neither a user postgres nor nobody",
        fix="run pyfi as an ordinary user, or set PYFI_LEDGER to a server",
    )


def make_folders(place: Place, settings: Settings) -> None:
    if len(str(place.run)) + len(f"/.s.PGSQL.{PORT}") > _SOCKET_PATH_MAX:
        raise SettingsError(
            f"the path of the ledger's socket is over {_SOCKET_PATH_MAX} bytes", where=str(place.run),
            fix="set PYFI_SCRATCH to a shorter node-local folder",
        )  # fmt: skip
    private_folder(settings.instance_dir)
    private_folder(settings.log_dir)
    try:
        if place.user is None:
            private_folder(place.base)
            private_folder(settings.run_dir)
            private_folder(place.run)
            return
        ROOT_STORE.mkdir(mode=0o755, exist_ok=True)
        for folder in (place.base, place.run):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, place.user.uid, place.user.gid)
            os.chmod(folder, 0o700)
    except OSError as error:
        raise LedgerUnavailable(
            f"cannot make the ledger's folders: {error}", where=str(place.base),
            fix="free some space there or set PYFI_HOME to another place",
        ) from error  # fmt: skip


@contextmanager
def alone(place: Place) -> Iterator[None]:
    """One start or stop at a time."""
    with open(place.base / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_lease(place: Place) -> dict[str, Any] | None:
    try:
        found = json.loads(place.lease.read_text())
        return found if {"host", "boot", "pid"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def write_lease(place: Place, pid: int) -> None:
    new = place.lease.with_suffix(".new")
    new.write_text(json.dumps({"host": socket.gethostname(), "boot": boot_id(), "pid": pid, "since": time.time()}))
    os.replace(new, place.lease)


def refuse_other_host(place: Place) -> None:
    lease = read_lease(place)
    if lease and lease["host"] != socket.gethostname():
        raise BrokerHeld(
            f"this ledger's Postgres runs on {lease['host']}, pid {lease['pid']}", where=str(place.data),
            fix=f"stop it there with `pyfi down`; if that host is gone for good, delete {place.lease}",
        )  # fmt: skip


def boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # no Linux: then a reboot is not seen, and Postgres' own look at the pid decides
    return ""


def lease_host(settings: Settings) -> str:
    """The host whose Postgres holds the instance's ledger; empty: none does."""
    lease = read_lease(place_of(settings))
    return str(lease["host"]) if lease else ""


def void_lease(settings: Settings, host: str) -> None:
    """Take away the lease of a host on which nothing of this ledger runs any more; the caller must know that.

    A ``postmaster.pid`` of that host goes with it: its number means nothing here.
    """
    place = place_of(settings)
    with alone(place):
        lease = read_lease(place)
        if lease and lease["host"] == host:
            (place.data / "postmaster.pid").unlink(missing_ok=True)
            place.lease.unlink(missing_ok=True)
