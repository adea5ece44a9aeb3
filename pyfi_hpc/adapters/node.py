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


def meeting_point(settings: Settings) -> Path:
    """The unix socket of the agent: one per node and allocation, in a folder that only we can enter."""
    private_folder(settings.scratch / f"pyfi-{os.getuid()}")
    private_folder(settings.run_dir)
    tag = f"{name()}-{allocation()}" if allocation() else name()
    return settings.run_dir / f"a-{tag}.sock"
