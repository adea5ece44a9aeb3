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

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pyfi_hpc.errors import LedgerUnavailable, SettingsError
from pyfi_hpc.ledger import programs
from pyfi_hpc.ledger.connection import connect, engine_url
from pyfi_hpc.ledger.data_folder import configure, initialise
from pyfi_hpc.ledger.place import (
    DATABASE,
    ROOT_STORE,
    Place,
    alone,
    boot_id,
    make_folders,
    place_of,
    read_lease,
    refuse_other_host,
    write_lease,
)
from pyfi_hpc.settings import Settings

_START_S = 60
_STOP_S = 30.0


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
    place = place_of(settings)
    make_folders(place, settings)
    with alone(place):
        return _running(place) or _start(settings, place)


def revive(settings: Settings) -> bool:
    """Start the instance's Postgres again if it was killed; False: it runs, was stopped, or is not ours to start.

    Killed means: the last one was started on this host since its boot, its process has gone, and ``postmaster.pid``
    is still there, which Postgres removes whenever it is stopped or gives up by itself. At most one such start
    at a time, whoever calls.

    Raises
    ------
    PyfiError
        As ``start``. Right after its death its children hold its memory for a moment: try again.
    """
    place = place_of(settings)
    if settings.ledger or not _was_killed(place):
        return False
    make_folders(place, settings)
    with alone(place):
        if not _was_killed(place):
            return False  # it was started or stopped meanwhile
        lease = place.lease.read_bytes()
        try:
            return _start(settings, place).started
        except BaseException:
            place.lease.write_bytes(lease)
            raise


def stop(settings: Settings, fast: bool = True) -> bool:
    """Stop the instance's Postgres; False: it did not run.

    ``fast`` ends open sessions, otherwise it waits for them. A server that does not end in time is stopped
    without a checkpoint, which loses nothing and costs its next start some seconds.
    """
    place = place_of(settings)
    if not place.base.is_dir():
        return False
    with alone(place):
        refuse_other_host(place)
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
    place = place_of(settings)
    return _running(place, connecting=False) if place.base.is_dir() else None


def remove(settings: Settings) -> None:
    """Delete the instance's ledger with everything in it; it must be stopped."""
    place = place_of(settings)
    if _postmaster(place) is not None:
        raise SettingsError("the ledger's Postgres runs", where=str(place.data), fix="stop it first: `pyfi down`")
    shutil.rmtree(place.base, ignore_errors=True)


def url(settings: Settings) -> str:
    """URL of the instance's ledger, whether it runs or not."""
    return engine_url(settings.ledger) if settings.ledger else place_of(settings).url


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
        place = place_of(settings)
        holder = read_lease(place)
        where = f"{place.data}, last on {holder['host']}" if holder else str(place.data)
        raise LedgerUnavailable("the instance's Postgres does not run", where=where, fix="start it: `pyfi up`")
    return found.url


# --- the server -------------------------------------------------------------------------------------


def _was_killed(place: Place) -> bool:
    lease = read_lease(place)
    if lease is None or (lease["host"], lease["boot"]) != (socket.gethostname(), boot_id()):
        return False
    try:
        pid = int((place.data / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return False
    return bool(pid == lease["pid"]) and _postmaster(place) is None


def _start(settings: Settings, place: Place) -> EmbeddedServer:
    tools = programs.find(settings.pg_bin, _data_version(place))
    if place.user is not None:
        tools = programs.reachable(tools, place.user, ROOT_STORE)
    refuse_other_host(place)
    if not place.data.exists():
        initialise(place, tools)
    configure(place)
    _clear_stale(place)
    _launch(place, tools)
    found = _running(place, started=True)
    if found is None:
        raise _failed(place, "Postgres ended right after its start")
    write_lease(place, found.pid)
    return found


def _launch(place: Place, tools: programs.Programs) -> None:
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


def _clear_stale(place: Place) -> None:
    """Remove a postmaster.pid of before a reboot, or whose number another program has now.

    Postgres itself removes one whose process is gone, and is right to refuse in every other case.
    """
    file = place.data / "postmaster.pid"
    lease = read_lease(place)
    with suppress(OSError, ValueError):
        pid = int(file.read_text().split("\n")[0])
        rebooted = lease is not None and lease["boot"] != boot_id()
        if rebooted or (psutil.pid_exists(pid) and not _is_postgres(pid)):
            file.unlink()
    place.lease.unlink(missing_ok=True)


def _is_postgres(pid: int) -> bool:
    try:
        return "postgres" in psutil.Process(pid).name()
    except psutil.Error:
        return True


def _running(place: Place, started: bool = False, connecting: bool = True) -> EmbeddedServer | None:
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


def _greet(place: Place) -> str:
    """See that it answers, and make our database if this is the first time; returns its version."""
    connection = connect(place.url.replace(f"/{DATABASE}?", "/postgres?"), 2.0, "pyfi start")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
    version = str(connection.info.server_version // 10000)
    connection.close()
    return version


def _postmaster(place: Place) -> int | None:
    """Pid of the server of this folder, if it is one: the number may belong to another process by now."""
    lease = read_lease(place)
    if lease and (lease["host"] != socket.gethostname() or lease["boot"] != boot_id()):
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


def _data_version(place: Place) -> int:
    try:
        return int((place.data / "PG_VERSION").read_text())
    except (OSError, ValueError):
        return 0


def _failed(place: Place, what: str, said: int = 0) -> LedgerUnavailable:
    """The error with the last lines that the log got since it had ``said`` bytes."""
    with suppress(OSError):
        lines = place.log.read_bytes()[said:].decode(errors="replace").splitlines()
        what += "".join(f"\n    {line}" for line in lines[-4:])
    return LedgerUnavailable(what, where=str(place.log), fix="its log says why; `pyfi doctor` checks disk and memory")
