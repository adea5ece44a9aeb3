"""This node: its name, its cores, the folder where its agent and ranks meet."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pyfi_hpc.settings import Settings, private_folder


def name() -> str:
    """The node's Slurm name, else the short host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def allocation() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def tag() -> str:
    """The name of this node in this allocation: two allocations may share a node."""
    return f"{name()}-{allocation()}" if allocation() else name()


def meeting_point(settings: Settings) -> Path:
    """The unix socket of the agent: one per node and allocation, in a folder that only we can enter."""
    private_folder(settings.scratch / f"pyfi-{os.getuid()}")
    private_folder(settings.run_dir)
    return settings.run_dir / f"a-{tag()}.sock"


def leave(settings: Settings) -> None:
    """Remove the instance's folder on this node, unless another agent or a ledger still lives there."""
    for folder in (settings.run_dir, settings.run_dir.parent):
        try:
            folder.rmdir()
        except OSError:
            return
