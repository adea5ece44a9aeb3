"""What this node has besides cores: memory, GPUs, and what the settings say of it."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import platform

import psutil

from pyfi_hpc.adapters import node, slurm
from pyfi_hpc.errors import SettingsError
from pyfi_hpc.model import terms
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.settings import Settings

log = logging.getLogger("pyfi_hpc.agent")


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
    """As the settings say, else what the batch system has given, else all that the driver knows.

    The driver also knows GPUs that Slurm has given to others, where no control groups hide them: so its word counts
    only where Slurm does not give out this node's GPUs, or has given them all (``--exclusive`` without ``--gres``,
    which steps are not told of). ``SLURM_JOB_GPUS`` itself is no list for us: steps have that of the first node.
    """
    if settings.gpus:
        return () if settings.gpus == ("none",) else settings.gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _named(visible)
    known = _of_driver()
    if known and "SLURM_JOB_ID" in os.environ and "SLURM_JOB_GPUS" not in os.environ and slurm.gives_gpus(node.name()):
        log.info("Slurm gives out this node's GPUs, and none to this allocation")
        return ()
    return known


def _named(visible: str) -> tuple[str, ...]:
    """GPUs of ``CUDA_VISIBLE_DEVICES``: CUDA sees none from the first one that is not there."""
    names = [name.strip() for name in visible.split(",")]
    there = itertools.takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names)
    return tuple(dict.fromkeys(there))


def _of_driver() -> tuple[str, ...]:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ()  # where there is no driver, 0.2 s of import are saved
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        try:
            return tuple(str(which) for which in range(pynvml.nvmlDeviceGetCount()))
        finally:
            pynvml.nvmlShutdown()
    except Exception as error:  # a driver that is broken: then there is no GPU that we could give
        log.warning("the NVIDIA driver tells of no GPUs: %s", error)
        return ()
