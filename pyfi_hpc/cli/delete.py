"""``pyfi delete``."""

from __future__ import annotations

from pyfi_hpc.cli.objects import delete

__all__ = ["delete"]
