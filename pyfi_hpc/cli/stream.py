"""A map whose calls have keyword arguments of their own."""

from __future__ import annotations

from typing import Any

from pyfi_hpc.client.mapping import MapStream

#: positional and keyword arguments
Call = tuple[tuple[Any, ...], dict[str, Any]]


class CallStream(MapStream):
    """As MapStream, but each call comes as ``(arguments, keyword arguments)``."""

    #: calls by index, if somebody wants them beside their results and takes them out again
    kept: dict[int, Call] | None = None

    def _encode(self, args: tuple[Any, ...]) -> bytes:
        positional, self._kwargs = args
        if self.kept is not None:
            self.kept[self.submitted + len(self._payloads)] = (positional, self._kwargs)
        return super()._encode(positional)
