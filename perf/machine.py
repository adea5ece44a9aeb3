"""Where and with what figures were measured: without that they mean nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from pyfi_hpc import settings
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.ledger import programs

_LIBRARIES = ("pyfi_hpc", "msgspec", "pyzmq", "numpy", "mpi4py", "psycopg2-binary", "sqlalchemy")


def about(quick: bool, seed: int) -> dict[str, Any]:
    """The head of a result file."""
    processor = _processor()
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total >> 30
    load = os.getloadavg()[0]
    text = f"{cores} cores of {processor}, {memory} GiB, load {load:.1f}"
    return {
        "machine": {"text": text, "processor": processor, "cores": cores, "memory_gib": memory, "load": load},
        "commit": commit(), "seed": seed, "quick": quick, "versions": _versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def commit() -> str:
    """The short one, with a + where files have changed since; "" outside of a repository."""
    here = Path(__file__).parent

    def said(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10).stdout.strip()

    return said("rev-parse", "--short", "HEAD") + ("+" if said("status", "--porcelain", "-uno", "..") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for name in _LIBRARIES:
        found[name] = importlib.metadata.version(name)
    try:
        found["postgres"] = programs.find(settings.load().pg_bin).version
    except PyfiError as error:
        found["postgres"] = str(error)
    return found
