"""Items of a file or of standard input, one a line or between NULs: bytes that become text whatever they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

from pyfi_hpc.errors import UsageError

#: one item between NULs; over it what is read is probably not such a list
ITEM_BYTES_MAX = 8 << 20


def lines_of(file: IO[bytes]) -> Iterator[str]:
    """Lines without what ends them. A name of a file may be any bytes: they are kept as ``os.fsdecode`` does."""
    for line in file:
        yield os.fsdecode(line.rstrip(b"\r\n"))


def between_nuls(file: IO[bytes]) -> Iterator[str]:
    """What lies between NULs, as ``find -print0`` writes it.

    Raises
    ------
    UsageError
        There is no NUL for too long.
    """
    rest = b""
    while block := os.read(file.fileno(), 1 << 16):
        *pieces, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, pieces)
        if len(rest) > ITEM_BYTES_MAX:
            raise UsageError(
                f"{ITEM_BYTES_MAX >> 20} MiB without a NUL", where=file.name, fix="without -0 items are lines"
            )
    if rest:
        yield os.fsdecode(rest)
