"""A map whose calls have keyword arguments of their own."""

from __future__ import annotations

from typing import Any

from pyfi_hpc.client.mapping import MapStream


class CallStream(MapStream):
    """As MapStream, but each call comes as ``(arguments, keyword arguments)``."""

    def _encode(self, args: tuple[Any, ...]) -> bytes:
        positional, self._kwargs = args
        return super()._encode(positional)
