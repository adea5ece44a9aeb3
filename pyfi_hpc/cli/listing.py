"""``pyfi ls``: objects of every kind, calls, jobs."""

from __future__ import annotations

from pyfi_hpc.cli.calls import call, calls
from pyfi_hpc.cli.jobs import queue
from pyfi_hpc.cli.objects import ls

ls.add_command(calls)
ls.add_command(call)
ls.add_command(queue, "jobs")

__all__ = ["ls"]
