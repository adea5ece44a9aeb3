"""Batch systems by name: ``slurm``, ``slurm@west``, ``pbs``."""

from __future__ import annotations

from functools import cache

from pyfi_hpc.adapters.pbs import Pbs
from pyfi_hpc.adapters.slurm_batch import SlurmBatch
from pyfi_hpc.errors import UsageError
from pyfi_hpc.ports import BatchSystem


@cache
def system(name: str) -> BatchSystem:
    """The batch system of that name.

    Raises
    ------
    UsageError
        There is none, or it does not know clusters.
    """
    kind, _, cluster = name.partition("@")
    if kind == "slurm":
        return SlurmBatch(cluster)
    if kind == "pbs" and not cluster:
        return Pbs()
    raise UsageError(f"there is no batch system {name!r}", where="--batch, --cluster", fix="slurm, slurm@NAME, pbs")
