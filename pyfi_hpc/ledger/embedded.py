"""The instance's own Postgres: made, started and stopped by us, reachable through one private unix socket.

::

    ordinary user   INSTANCE/ledger/data     0700, ours          socket in the instance's run folder
    root            /var/lib/pyfi-hpc/TAG/   0700, owned by      socket there too; root may enter, others not
                        data/ run/           postgres or nobody

Postgres refuses to run as root, so then another user runs it. Nobody gets in by being on the machine: the
folder of the socket is closed, and behind it the kernel tells Postgres who calls (peer), and only we are
mapped to the ledger's role. There is no TCP port and no password. The server outlives who started it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, SettingsError, SiteError
from pyfi_hpc.ledger import programs
from pyfi_hpc.ledger.connection import connect, engine_url
from pyfi_hpc.ledger.programs import User
from pyfi_hpc.settings import Settings, private_folder

ROLE = DATABASE = "pyfi"
_PORT = 5432  # only names the socket's file
_SOCKET_PATH_MAX = 107
_START_S = 60
_STOP_S = 30.0
#: where a ledger lies that root started
_ROOT_STORE = Path("/var/lib/pyfi-hpc")

# Small, because it shares a login node; durable in any case. wal_level stays replica: for appends it writes
# no more than minimal, and a copy of the running ledger (pg_basebackup, WAL copies) stays possible.
# max_wal_size bounds the time that a restart after a crash takes (about 3 s a GB).
_CONFIGURATION = """\
# Written by pyfi at every start; changes belong into postgresql.conf above the include, or are lost.
listen_addresses = ''
unix_socket_directories = '{run}'
unix_socket_permissions = 0700
port = {port}
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_size = 1GB
checkpoint_timeout = 10min
shared_buffers = 128MB
max_connections = 40
max_locks_per_transaction = 256
max_parallel_workers_per_gather = 0
jit = off
logging_collector = off
log_line_prefix = '%m [%p] '
log_timezone = UTC
timezone = UTC
"""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running embedded Postgres."""

    url: str
    pid: int
    version: str
    data: Path
    run: Path
    log: Path
    #: this call started it; False: it ran already
    started: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
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
        return engine_url(f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.run))}&port={_PORT}")


def start(settings: Settings) -> EmbeddedServer:
    """Start the instance's Postgres, or attach to it if it runs; the first start makes it.

    Cost: about 0.2 s, the first time 0.8 s more.

    Raises
    ------
    PostgresMissing
    BrokerHeld
        The data folder is in use on another host: two servers on one folder would destroy it.
    LedgerUnavailable
        It does not start; the error has the last lines of its log.
    """
    place = _place(settings)
    _make_folders(place, settings)
    with _alone(place):
        found = _running(place)
        if found is not None:
            return found
        tools = programs.find(settings.pg_bin, _data_version(place))
        if place.user is not None:
            tools = programs.reachable(tools, place.user, _ROOT_STORE)
        _refuse_other_host(place)
        if not place.data.exists():
            _initialise(place, tools)
        _configure(place)
        _clear_stale(place)
        _launch(place, tools)
        found = _running(place, started=True)
        if found is None:
            raise _failed(place, "Postgres ended right after its start")
        _write_lease(place, found.pid)
    return found


def stop(settings: Settings, fast: bool = True) -> bool:
    """Stop the instance's Postgres; False: it did not run.

    ``fast`` ends open sessions, otherwise it waits for them. A server that does not end in time is stopped
    without a checkpoint, which loses nothing and costs its next start some seconds.
    """
    place = _place(settings)
    if not place.base.is_dir():
        return False
    with _alone(place):
        _refuse_other_host(place)
        pid = _postmaster(place)
        if pid is not None:
            for number in (signal.SIGINT if fast else signal.SIGTERM, signal.SIGQUIT):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _ends(pid):
                    break
        place.lease.unlink(missing_ok=True)
    with suppress(OSError):
        place.run.rmdir()
    return pid is not None


def status(settings: Settings) -> EmbeddedServer | None:
    """The instance's Postgres if it runs on this host."""
    place = _place(settings)
    return _running(place, connecting=False) if place.base.is_dir() else None


def remove(settings: Settings) -> None:
    """Delete the instance's ledger with everything in it; it must be stopped."""
    place = _place(settings)
    if _postmaster(place) is not None:
        raise SettingsError(
            "the ledger's Postgres runs", where=str(place.data), fix="stop it first: `pyfi down`"
        )
    shutil.rmtree(place.base, ignore_errors=True)


def connect_url(settings: Settings) -> str:
    """URL of the instance's ledger: the setting, or that of the running embedded server.

    Raises
    ------
    LedgerUnavailable
        No URL is set and the embedded server does not run on this host.
    """
    if settings.ledger:
        return engine_url(settings.ledger)
    found = status(settings)
    if found is None:
        place = _place(settings)
        holder = _read_lease(place)
        where = f"{place.data}, last on {holder['host']}" if holder else str(place.data)
        raise LedgerUnavailable(
            "the instance's Postgres does not run", where=where, fix="start it: `pyfi up`"
        )
    return found.url


# --- places -----------------------------------------------------------------------------------------


def _place(settings: Settings) -> _Place:
    log = settings.log_dir / "postgres.log"
    if os.getuid() != 0:
        base = settings.instance_dir / "ledger"
        return _Place(base, settings.run_dir / "ledger", log, None)
    tag = hashlib.sha256(str(settings.instance_dir).encode()).hexdigest()[:12]
    base = _ROOT_STORE / f"{settings.instance}-{tag}"
    return _Place(base, base / "run", log, _server_user())


def _server_user() -> User:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(name, entry.pw_uid, entry.pw_gid)
    raise SiteError(
        "Postgres refuses to run as root, and there is neither a user postgres nor nobody",
        fix="run pyfi as an ordinary user, or set PYFI_LEDGER to a server",
    )


def _make_folders(place: _Place, settings: Settings) -> None:
    if len(str(place.run)) + len(f"/.s.PGSQL.{_PORT}") > _SOCKET_PATH_MAX:
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
        _ROOT_STORE.mkdir(mode=0o755, exist_ok=True)
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
def _alone(place: _Place) -> Iterator[None]:
    """One start or stop at a time."""
    with open(place.base / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- the server -------------------------------------------------------------------------------------


def _initialise(place: _Place, tools: programs.Programs) -> None:
    """Make the data folder; it gets its name when it is complete."""
    made = place.base / "data.new"
    shutil.rmtree(made, ignore_errors=True)
    us = pwd.getpwuid(os.getuid()).pw_name
    done = programs.run(
        [
            tools["initdb"], "-D", str(made), "-U", ROLE, "-E", "UTF8", "--locale=C", "--data-checksums",
            "--auth-local=peer", "--auth-host=reject",
        ],
        place.user,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(made, ignore_errors=True)
        said = done.stdout.splitlines()
        said = [line for line in said if any(w in line for w in ("error", "could not", "FATAL"))] or said
        raise LedgerUnavailable(
            "the ledger's data folder cannot be made: " + " ".join(said[-3:]),
            where=str(place.data), fix="free some space there or set PYFI_HOME to another place",
        )  # fmt: skip
    _write(made / "pg_hba.conf", "# who may come in: the owner of the instance, as the kernel names him\n"
           "local all all peer map=own\n", place)  # fmt: skip
    _write(made / "pg_ident.conf", f'own "{us}" {ROLE}\n', place)
    with open(made / "postgresql.conf", "a") as file:
        file.write("\ninclude 'pyfi.conf'\n")
    os.rename(made, place.data)


def _configure(place: _Place) -> None:
    text = _CONFIGURATION.format(run=str(place.run).replace("'", "''"), port=_PORT)
    _write(place.data / "pyfi.conf", text, place)


def _write(path: Path, text: str, place: _Place) -> None:
    path.write_text(text)
    path.chmod(0o600)
    if place.user is not None:
        os.chown(path, place.user.uid, place.user.gid)


def _launch(place: _Place, tools: programs.Programs) -> None:
    """pg_ctl puts the server into a session of its own and waits until it takes connections."""
    said = place.log.stat().st_size if place.log.exists() else 0
    with open(place.log, "a") as log:
        os.chmod(place.log, 0o600)
        try:
            done = programs.run(
                [tools["pg_ctl"], "start", "-D", str(place.data), "-w", "-s", "-t", str(_START_S)],
                place.user, _START_S + 10.0, log.fileno(),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _failed(place, f"Postgres did not start within {_START_S} s", said) from None
    if done.returncode:
        raise _failed(place, "Postgres does not start", said)


def _clear_stale(place: _Place) -> None:
    """Remove a postmaster.pid of before a reboot, or whose number another program has now.

    Postgres itself removes one whose process is gone, and is right to refuse in every other case.
    """
    file = place.data / "postmaster.pid"
    lease = _read_lease(place)
    with suppress(OSError, ValueError):
        pid = int(file.read_text().split("\n")[0])
        rebooted = lease is not None and lease["boot"] != _boot_id()
        if rebooted or (psutil.pid_exists(pid) and not _is_postgres(pid)):
            file.unlink()
    place.lease.unlink(missing_ok=True)


def _is_postgres(pid: int) -> bool:
    try:
        return "postgres" in psutil.Process(pid).name()
    except psutil.Error:
        return True


def _running(place: _Place, started: bool = False, connecting: bool = True) -> EmbeddedServer | None:
    """The server of this folder if it lives here and, unless only asked for, takes connections."""
    pid = _postmaster(place)
    if pid is None:
        return None
    version = ""
    if connecting:
        deadline = time.monotonic() + _START_S
        while not version:
            try:
                version = _greet(place)
            except LedgerUnavailable:
                if _postmaster(place) is None:
                    return None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    else:
        version = str(_data_version(place))
    return EmbeddedServer(place.url, pid, version, place.data, place.run, place.log, started)


def _greet(place: _Place) -> str:
    """See that it answers, and make our database if this is the first time; returns its version."""
    connection = connect(place.url.replace(f"/{DATABASE}?", "/postgres?"), 2.0, "pyfi start")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
    version = str(connection.info.server_version // 10000)
    connection.close()
    return version


def _postmaster(place: _Place) -> int | None:
    """Pid of the server of this folder, if it is one: the number may belong to another process by now."""
    lease = _read_lease(place)
    if lease and (lease["host"] != socket.gethostname() or lease["boot"] != _boot_id()):
        return None
    try:
        pid = int((place.data / "postmaster.pid").read_text().split("\n")[0])
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return pid if str(place.data) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def _data_version(place: _Place) -> int:
    try:
        return int((place.data / "PG_VERSION").read_text())
    except (OSError, ValueError):
        return 0


def _failed(place: _Place, what: str, said: int = 0) -> LedgerUnavailable:
    """The error with the last lines that the log got since it had ``said`` bytes."""
    with suppress(OSError):
        lines = place.log.read_bytes()[said:].decode(errors="replace").splitlines()
        what += "".join(f"\n    {line}" for line in lines[-4:])
    return LedgerUnavailable(
        what, where=str(place.log), fix="its log says why; `pyfi doctor` checks disk and memory"
    )


# --- the lease: Postgres itself guards a folder on one host only --------------------------------------


def _read_lease(place: _Place) -> dict[str, Any] | None:
    try:
        found = json.loads(place.lease.read_text())
        return found if {"host", "boot", "pid"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _write_lease(place: _Place, pid: int) -> None:
    new = place.lease.with_suffix(".new")
    new.write_text(
        json.dumps({"host": socket.gethostname(), "boot": _boot_id(), "pid": pid, "since": time.time()})
    )
    os.replace(new, place.lease)


def lease_host(settings: Settings) -> str:
    """The host whose Postgres holds the instance's ledger; empty: none does."""
    lease = _read_lease(_place(settings))
    return str(lease["host"]) if lease else ""


def void_lease(settings: Settings, host: str) -> None:
    """Take away the lease of a host on which nothing of this ledger runs any more; the caller must know that.

    A ``postmaster.pid`` of that host goes with it: its number means nothing here.
    """
    place = _place(settings)
    with _alone(place):
        lease = _read_lease(place)
        if lease and lease["host"] == host:
            (place.data / "postmaster.pid").unlink(missing_ok=True)
            place.lease.unlink(missing_ok=True)


def _refuse_other_host(place: _Place) -> None:
    lease = _read_lease(place)
    if lease and lease["host"] != socket.gethostname():
        raise BrokerHeld(
            f"this ledger's Postgres runs on {lease['host']}, pid {lease['pid']}", where=str(place.data),
            fix=f"stop it there with `pyfi down`; if that host is gone for good, delete {place.lease}",
        )  # fmt: skip


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))
