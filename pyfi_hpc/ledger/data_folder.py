"""The data folder of the instance's own Postgres: made once, its settings written at every start."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from pyfi_hpc.errors import LedgerUnavailable
from pyfi_hpc.ledger import programs
from pyfi_hpc.ledger.place import PORT, ROLE, Place

# Small, because it shares a login node; durable in any case. wal_level stays replica: for appends it writes
# no more than minimal, and a copy of the running ledger (pg_basebackup, WAL copies) stays possible.
# The background writer looks once a second for five times as much: until it sleeps for longer, two minutes after the
# last work, most of what an idle server does is to look.
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
bgwriter_delay = 1s
bgwriter_lru_maxpages = 500
max_parallel_workers_per_gather = 0
jit = off
logging_collector = off
log_line_prefix = '%m [%p] '
log_timezone = UTC
timezone = UTC
"""


def initialise(place: Place, tools: programs.Programs) -> None:
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


def configure(place: Place) -> None:
    """Write our settings, as before every start."""
    text = _CONFIGURATION.format(run=str(place.run).replace("'", "''"), port=PORT)
    _write(place.data / "pyfi.conf", text, place)


def _write(path: Path, text: str, place: Place) -> None:
    path.write_text(text)
    path.chmod(0o600)
    if place.user is not None:
        os.chown(path, place.user.uid, place.user.gid)
