"""The house keeps its floors: imports go down only, each outside library has its homes, nothing heavy at start."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pyfi_hpc"

#: floor of each part; a part may import its own floor's listed neighbours and everything below
FLOORS = {
    "runner": 0,
    "errors": 1, "_version": 1, "model": 1,
    "core": 2, "wire": 2,
    "ports": 3, "loop": 4, "settings": 4,
    "ledger": 5, "adapters": 5,
    "hosts": 6, "client": 7, "sim": 8, "cli": 9,
}  # fmt: skip
#: neighbours on one floor that may see each other; core and wire never meet
NEIGHBOURS = {("ledger", "adapters"), ("model", "errors"), ("settings", "loop")}

#: libraries that have a home: only these files or folders import them
HOMES = {
    "zmq": {"adapters", "client/link.py", "hosts", "cli/checks.py", "cli/doctor.py"},
    "mpi4py": {"adapters/mpi.py"},
    "psycopg2": {"ledger"},
    "sqlalchemy": {"ledger"},
    "alembic": {"ledger"},
    "git": {"adapters/git.py"},
    "paramiko": {"adapters/ssh.py", "adapters/ssh_config.py", "adapters/ssh_login.py"},
    "pynvml": {"adapters"},
    "click": {"cli"},
    "rich": {"cli"},
    "prometheus_client": {"cli/metrics.py"},
    "textual": {"cli/dashboard.py"},
    "psutil": {"adapters", "ledger/embedded.py", "cli"},
    "numpy": {"runner"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file: Path) -> None:
    """A file imports its own part and the floors below it."""
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return  # names are imported when first used
    for name in imports_of(file):
        there = part_of(name) if name.startswith("pyfi_hpc") else ""
        if there in FLOORS and there != here and (here, there) not in NEIGHBOURS:
            assert FLOORS[there] < FLOORS[here], f"{file.name} imports {name}, which is not below it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_libraries_stay_in_their_homes(file: Path) -> None:
    """One outside thing, one place."""
    path = str(file.relative_to(PACKAGE))
    for name in imports_of(file):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None:
            assert any(path == home or path.startswith(home + "/") for home in homes), f"{path} imports {name}"


def test_core_is_pure() -> None:
    """The machines have no clock, socket, thread, file, randomness or log line."""
    forbidden = {"time", "socket", "threading", "os", "random", "logging", "datetime", "subprocess", "select", "zmq"}
    for file in (PACKAGE / "core").glob("*.py"):
        used = {name.split(".")[0] for name in imports_of(file)}
        assert not used & forbidden, f"{file.name} imports {used & forbidden}"


def test_a_broker_loads_no_sqlalchemy_to_serve() -> None:
    """Its import, and that of what starts an instance: what takes longest is left to the desk."""
    code = "import sys, pyfi_hpc.hosts.broker, pyfi_hpc.hosts.instance; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("what", ["import pyfi_hpc", "from pyfi_hpc.cli.main import main; main(['--help'])"])
def test_nothing_heavy_at_start(what: str) -> None:
    """Neither the import nor ``pyfi --help`` loads MPI, SQLAlchemy, paramiko or numpy."""
    code = (
        "import sys, json, atexit\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr))\n" + what
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = set(json.loads(ended.stderr.strip().splitlines()[-1]))
    assert not loaded & {"mpi4py", "sqlalchemy", "paramiko", "numpy", "psycopg2", "git"}
