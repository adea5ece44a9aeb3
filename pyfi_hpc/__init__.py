"""Durable Python tasks at microsecond-scale overhead on the ranks of a Slurm allocation.

Names are imported when first used, so ``import pyfi_hpc`` is cheap and needs neither MPI nor Postgres.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyfi_hpc._version import __version__

if TYPE_CHECKING:
    from pyfi_hpc.client.api import Processor, Queue, Socket, functions, funnel, parallel, pipeline, segment
    from pyfi_hpc.client.executor import Executor
    from pyfi_hpc.client.job import attach

_HOME = {
    "Executor": "pyfi_hpc.client.executor",
    "Processor": "pyfi_hpc.client.api",
    "Socket": "pyfi_hpc.client.api",
    "Queue": "pyfi_hpc.client.api",
    "functions": "pyfi_hpc.client.api",
    "pipeline": "pyfi_hpc.client.api",
    "parallel": "pyfi_hpc.client.api",
    "funnel": "pyfi_hpc.client.api",
    "segment": "pyfi_hpc.client.api",
    "attach": "pyfi_hpc.client.job",
}

__all__ = [
    "Executor", "Processor", "Queue", "Socket", "__version__", "attach", "functions", "funnel", "parallel",
    "pipeline", "segment",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pyfi_hpc' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
