"""What a host has, and our package on it: a virtual environment made once for all instances that use this host."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from pyfi_hpc.adapters.on_node.frame import Problem, answers, copy, private, run

MARKER = "pyfi-venv.json"
#: free bytes below which nothing is installed: the environment takes about 250 MB
ROOM_BYTES = 400 << 20
_MAKE_S, _INSTALL_S = 120.0, 900.0
#: a broker that is there answers a connection within so long, seconds
_REACH_S = 5.0
#: pip's options and uv's variables: uv does not read pip's files
_UV = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE", "no-index": "UV_NO_INDEX",
}  # fmt: skip


def look(_: IO[bytes], base: str, probe: str, broker: list[Any], package: dict[str, str] | None) -> dict[str, Any]:
    """What is here: name, cores, room; whether the instance's home and broker are reached, and its package is here."""
    base = above = os.path.abspath(os.path.expanduser(base))
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    shared = os.path.isfile(probe)
    return {
        "hostname": socket.gethostname().partition(".")[0],
        "base": base,
        "shared": shared,
        "same_python": shared and package is not None and _has(package["python"], package["hash"]),
        "free": shutil.disk_usage(above).free,
        "cores": len(os.sched_getaffinity(0)),
        "tag": f"cp{sys.version_info[0]}{sys.version_info[1]}",
        "way": _way(*broker),
    }


def _way(host: str, port: int) -> str:
    """Why the broker cannot be reached from here; empty where it can."""
    try:
        socket.create_connection((host, port), _REACH_S).close()
        return ""
    except OSError as error:
        return error.strerror or str(error)


def _has(python: str, wanted: str) -> bool:
    """Whether that Python is here too and imports the very same package."""
    package = answers([python, "-I", "-c", "import pyfi_hpc, sys; sys.stdout.write(pyfi_hpc.__path__[0])"])
    return bool(package) and hash_of(str(package)) == wanted


def hash_of(package: str) -> str:
    """What tells two packages of one version apart: names and bytes of all files but byte code."""
    digest = hashlib.sha256()
    for folder, below, files in os.walk(package):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for name in sorted(files):
            if not name.endswith((".pyc", ".pyo")):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    data = file.read()
                digest.update(f"{os.path.relpath(path, package)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def install(stdin: IO[bytes], base: str, name: str, wheel: str, size: int, extra: str, room: int) -> dict[str, Any]:
    """Make the virtual environment unless it is there; half a one is thrown away."""
    venvs = private(os.path.join(private(base), "venvs"))
    folder = os.path.join(venvs, name)
    python = os.path.join(folder, "bin", "python")
    with _lock(os.path.join(venvs, f".{name}.lock")):
        if os.path.isfile(os.path.join(folder, MARKER)) and _runs(python):
            return {"python": python, "was_there": True}
        free = shutil.disk_usage(venvs).free
        if free < room:
            fix = "make room there, or name another folder with --home"
            raise Problem(f"no room: {free >> 20} MB are free, {room >> 20} MB are needed", venvs, fix)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _build(stdin, folder, python, wheel, size, extra)
            with open(os.path.join(folder, MARKER), "w") as file:
                json.dump({"python": sys.version.split()[0], "wheel": wheel}, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return {"python": python, "was_there": False}


def _build(stdin: IO[bytes], folder: str, python: str, wheel: str, size: int, extra: str) -> None:
    uv = find_uv()
    if not uv and not _has_venv():
        raise Problem(
            "this Python cannot make virtual environments: it lacks venv or ensurepip", sys.executable,
            "install it (Debian: apt-get install python3-venv) or uv, or name another Python with --python",
        )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    make, put = [sys.executable, "-m", "venv", folder], [python, "-I", "-m", "pip", "install", "--no-input"]
    if uv:
        make = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, folder]
        put = [uv, "pip", "install", "--python", python]
        environment.update(_for_uv(environment), UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
    run(make, environment, _MAKE_S, "making the virtual environment failed")
    build = private(os.path.join(folder, "build"))
    file = os.path.join(build, wheel)
    copy(stdin, file, size)
    environment.update(TMPDIR=build, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_PROGRESS_BAR="off")
    run([*put, file + extra], environment, _INSTALL_S, "installing failed")
    shutil.rmtree(build, ignore_errors=True)
    if not _runs(python):
        fix = f"look with `{python} -c 'import pyfi_hpc.hosts.agent'`"
        raise Problem("what was installed cannot be imported", python, fix)


def _runs(python: str) -> bool:
    return answers([python, "-I", "-c", "import pyfi_hpc.hosts.agent"], 120.0) is not None


def find_uv() -> str:
    beside = os.path.expanduser("~/.local/bin/uv")
    return shutil.which("uv") or (beside if os.access(beside, os.X_OK) else "")


def _has_venv() -> bool:
    try:
        import ensurepip
        import venv
    except ImportError:
        return False
    return bool(ensurepip and venv)


def _for_uv(environment: dict[str, str]) -> dict[str, str]:
    """Where this host's pip looks, told to uv; what is set for uv itself stays."""
    found: dict[str, str] = {}
    for line in (answers([sys.executable, "-m", "pip", "config", "list"]) or "").splitlines():
        name, _, value = line.partition("=")
        variable = _UV.get(name.rpartition(".")[2])
        if variable and variable not in environment:
            found.setdefault(variable, value.strip("'\""))
    if "UV_INDEX" in found:
        # pip takes the best version of all indexes, uv by default that of the first one
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    """One installation at a time, also of hosts that share this folder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + _INSTALL_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    fix = "try again later"
                    raise Problem(f"another installation has gone on for {_INSTALL_S:.0f} s", path, fix) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
