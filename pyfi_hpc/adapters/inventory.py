"""What this node has besides cores: memory, GPUs, and what the settings say of it."""

from __future__ import annotations

import os
import platform

import psutil

from pyfi_hpc.adapters import node
from pyfi_hpc.errors import SettingsError
from pyfi_hpc.model import terms
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.settings import Settings


def look(settings: Settings, rank_count: int) -> Inventory:
    """Look around.

    Raises
    ------
    SettingsError
        The settings name a resource or a label in a way that cannot be.
    """
    gpus = _gpus(settings)
    labels = {platform.system().lower(), platform.machine(), node.name(), *settings.labels, *(["gpu"] if gpus else [])}
    try:
        wanted = terms.read(" ".join([*settings.resources, *(f"label={label}" for label in sorted(labels))]))
    except ValueError as error:
        where = settings.origin.get("resources") or settings.origin.get("labels") or "resources, labels"
        raise SettingsError(str(error), where=where, fix="write such as PYFI_RESOURCES=license:2") from None
    return Inventory(rank_count, _memory_bytes(), gpus, wanted.named, wanted.labels)


def _memory_bytes() -> int:
    """What the allocation has of this node's memory, else all."""
    total = int(psutil.virtual_memory().total)
    given = os.environ.get("SLURM_MEM_PER_NODE", "")
    return min(total, int(given) << 20) if given.isdigit() and int(given) else total


def _gpus(settings: Settings) -> tuple[str, ...]:
    """As the settings say, else what the batch system has given, else all that the driver knows."""
    if settings.gpus:
        return () if settings.gpus == ("none",) else settings.gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name.strip() and name != "NoDevFiles")
    return _of_driver()


def _of_driver() -> tuple[str, ...]:
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
    except Exception:  # no driver, no library: then there is no GPU that we could give
        return ()
    try:
        return tuple(str(which) for which in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()
