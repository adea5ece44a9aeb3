"""What a machine must have: one function a check, each says what it found and how to mend it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc._version import __version__
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.settings import Settings

OK, WARN, FAIL = "ok", "warn", "fail"
#: seconds for one program to answer
_PROGRAM_S = 20.0
_DISK_BYTES_MIN = 1 << 30
#: before it, a local user could get at munged's key (CVE-2026-25506)
_MUNGE_MIN = (0, 5, 18)
#: before it, a client without keys could block a CURVE server for all others (CVE-2020-15166)
_LIBZMQ_MIN = (4, 3, 3)


@dataclass(frozen=True, slots=True)
class Finding:
    state: str
    text: str
    fix: str = ""


def python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"python {version}, pyfi_hpc {__version__} ({sys.executable})"
    yield Finding(
        OK if sys.version_info >= (3, 11) else FAIL,
        text,
        "" if sys.version_info >= (3, 11) else "use Python 3.11 or newer",
    )


def libzmq(settings: Settings) -> Iterator[Finding]:
    import zmq

    curve, version = zmq.has("curve"), zmq.zmq_version_info()
    text = f"libzmq {zmq.zmq_version()}, {'with' if curve else 'WITHOUT'} CURVE"
    yield Finding(
        OK if curve and version >= _LIBZMQ_MIN else FAIL,
        text,
        "" if curve and version >= _LIBZMQ_MIN else "pip install --upgrade pyzmq",
    )


def ledger(settings: Settings) -> Iterator[Finding]:
    if settings.ledger:
        yield _server(settings)
        return
    from pyfi_hpc.ledger import programs

    try:
        found = programs.find(settings.pg_bin)
        yield Finding(OK, f"PostgreSQL {found.version} ({found.folder})")
    except PyfiError as error:
        yield Finding(FAIL, error.what, error.fix)


def _server(settings: Settings) -> Finding:
    from pyfi_hpc.ledger.connection import connect

    try:
        connection = connect(settings.ledger, name="pyfi doctor")
    except PyfiError as error:
        return Finding(FAIL, error.what, error.fix or "look at PYFI_LEDGER and the server")
    with closing(connection):
        version = connection.server_version // 10000
    return Finding(OK, f"the ledger's Postgres answers, version {version}")


def mpi(settings: Settings) -> Iterator[Finding]:
    from pyfi_hpc.adapters import launcher

    slurm = shutil.which("srun") is not None
    try:
        mpiexec = launcher.find_mpiexec()
    except PyfiError as error:
        yield Finding(
            WARN if slurm else FAIL,
            error.what + (": ranks only through Slurm" if slurm else ""),
            "pip install 'pyfi_hpc[mpi]'",
        )
        return
    # all say 1, one tells the sum: what two ranks print at once comes mixed
    script = (
        "from mpi4py import MPI; world = MPI.COMM_WORLD; count = world.allreduce(1); "
        "world.rank or print('joined', count, *MPI.get_vendor())"
    )
    said = _say(launcher.step_command(mpiexec, 2, [sys.executable, "-c", script]))
    joined = re.search(r"joined 2 (.+) \((\d+), (\d+), (\d+)\)", said)
    if joined:
        library = f"{joined[1]} {'.'.join(joined.group(2, 3, 4))}"
        yield Finding(OK, f"mpiexec starts 2 ranks of one world, {library} ({mpiexec})")
    else:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        yield Finding(
            FAIL,
            f"{mpiexec} does not start 2 ranks of one world: {last[0][:200]}",
            "pip install 'pyfi_hpc[mpi]', or load your site's MPI",
        )


def programs_on_path(settings: Settings) -> Iterator[Finding]:
    git = _say(["git", "--version"]).strip()
    yield (
        Finding(OK, git)
        if git.startswith("git version")
        else Finding(FAIL, "git not found", "load your site's module, or install git")
    )
    from pyfi_hpc.adapters.environment import find_uv

    uv = find_uv()
    if uv:
        yield Finding(OK, f"{_say([uv, '--version']).strip().split('(')[0].strip()} builds environments")
    else:
        yield Finding(WARN, "uv not found: environments build about 20 times slower", "pip install uv")


def slurm(settings: Settings) -> Iterator[Finding]:
    commands = ("sbatch", "srun", "squeue", "scancel")
    missing = [name for name in commands if not shutil.which(name)]
    if len(missing) == len(commands):
        yield Finding(OK, "no Slurm here: ranks run on this machine only")
        return
    if missing:
        yield Finding(FAIL, f"Slurm's commands are not complete: no {', '.join(missing)}", "load your site's module")
        return
    found = re.search(r"slurm \S+", _say(["sbatch", "--version"]))
    version = found[0] if found else "slurm"
    partitions = _say(["sinfo", "--noheader", "--format=%P"]).split()
    if partitions and not any("error" in word for word in partitions):
        yield Finding(OK, f"{version}, partitions: {' '.join(partitions)}")
    else:
        yield Finding(
            WARN,
            f"{version}, but its controller does not answer",
            "only `pyfi up --slurm` needs it; ask your site",
        )


def munge(settings: Settings) -> Iterator[Finding]:
    if not shutil.which("munge"):
        return
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", _say(["munge", "--version"]))
    if found and tuple(map(int, found.groups())) < _MUNGE_MIN:
        text = f"munge {found[0]} is older than 0.5.18: CVE-2026-25506 unless the distribution has patched it"
        yield Finding(WARN, text, "ask whoever runs this machine; pyfi's own connections do not use it")
    elif found:
        yield Finding(OK, f"munge {found[0]}")


def folders(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.exists():
        yield Finding(OK, f"{home} will be made by `pyfi up`")
    else:
        info = home.stat()
        if info.st_uid != os.getuid() or info.st_mode & 0o077:
            yield Finding(
                FAIL,
                f"{home} is open to others (mode {stat.S_IMODE(info.st_mode):04o}, uid {info.st_uid})",
                f"chmod 700 {home}",
            )
        else:
            yield Finding(OK, f"{home} is private")
    yield from _disk(home)
    if not os.access(settings.scratch, os.W_OK):
        yield Finding(FAIL, f"{settings.scratch} cannot be written", "set PYFI_SCRATCH to a folder on this machine")


def _disk(folder: Path) -> Iterator[Finding]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.0f} GB free below {folder}"
    yield Finding(
        OK if free >= _DISK_BYTES_MIN else WARN,
        text,
        "" if free >= _DISK_BYTES_MIN else "the ledger and environments need room",
    )


def access(settings: Settings) -> Iterator[Finding]:
    from pyfi_hpc.adapters import access as access_file

    if not settings.access_file.exists():
        yield Finding(OK, f"instance {settings.instance!r} has not been started")
        return
    try:
        found = access_file.read(settings)
        yield Finding(
            OK,
            f"instance {settings.instance!r}: its keys are private, its broker was last at {found.endpoint}",
        )
    except PyfiError as error:
        yield Finding(FAIL, f"{error.what} ({settings.access_file})", error.fix)


def standbys(settings: Settings) -> Iterator[Finding]:
    from pyfi_hpc.hosts import brokers

    for one in brokers.standbys(settings):
        yield Finding(OK, f"standby: pid {one.pid} on {one.host}, waiting")


def _say(command: list[str]) -> str:
    """What a program says; nothing if it cannot be run or hangs."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PROGRAM_S,
            env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    python, libzmq, ledger, mpi, programs_on_path, slurm, munge, folders, access, standbys,
)  # fmt: skip
