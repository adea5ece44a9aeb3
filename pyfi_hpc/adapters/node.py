"""This node: its name, its cores, the folder where its agent and ranks meet."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from pyfi_hpc.adapters import filelock
from pyfi_hpc.errors import Refused
from pyfi_hpc.settings import Settings, private_folder

#: an agent that is ending has so long, seconds
_ENDING_S = 5.0


def name() -> str:
    """The node's Slurm name, else the short host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def allocation() -> str:
    """What the allocation that this process is in is called; empty: it is in none."""
    return os.environ.get("PYFI_ALLOCATION") or os.environ.get("SLURM_JOB_ID", "")


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


def be_the_only(point: Path) -> int:
    """Hold the meeting point, so that no second agent ends what the ranks of the first have; a descriptor.

    Raises
    ------
    Refused
        Another agent of this node and allocation holds it, also after some seconds: it may just be ending.
    """
    until = time.monotonic() + _ENDING_S
    while (descriptor := filelock.take(_lock(point))) is None:
        if time.monotonic() > until:
            holder = filelock.text(_lock(point)) or "unknown"
            raise Refused(
                f"another agent of this instance runs on this node, pid {holder}", where=str(point),
                fix="`pyfi agent stop` ends it; one that is frozen has to be killed",
            )  # fmt: skip
        time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d" % os.getpid())
    return descriptor


def give_up(point: Path, descriptor: int) -> None:
    """Let another agent take the meeting point."""
    point.unlink(missing_ok=True)
    _lock(point).unlink(missing_ok=True)
    os.close(descriptor)


def _lock(point: Path) -> Path:
    return point.with_suffix(".lock")


def leave(settings: Settings) -> None:
    """Remove the instance's folder on this node, unless another agent or a ledger still lives there."""
    for folder in (settings.run_dir, settings.run_dir.parent):
        try:
            folder.rmdir()
        except OSError:
            return
