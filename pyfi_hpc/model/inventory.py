"""What a node has besides ranks: told by its agent, counted by the broker, given out by the agent."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pyfi_hpc.model.terms import NAMES_MAX, Amount, Bytes, Some, Word

#: GPUs of a node, and names that it goes by
_MANY = 1024


class Inventory(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Memory, GPUs, other things by name, and labels."""

    ranks: Amount = 0  #: that should be there; some may be starting
    memory_bytes: Bytes = 0  #: 0: not known, and not counted
    #: as CUDA_VISIBLE_DEVICES names them
    gpus: Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(max_length=_MANY)] = ()
    named: Annotated[tuple[tuple[Word, Some], ...], Meta(max_length=NAMES_MAX)] = ()
    labels: Annotated[tuple[Word, ...], Meta(max_length=_MANY)] = ()


NOTHING = Inventory()
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Inventory)


def encode(inventory: Inventory) -> bytes:
    return b"" if inventory == NOTHING else _encode(inventory)


def decode(data: bytes) -> Inventory:
    """The inverse; what cannot be read is nothing: the node has ranks all the same."""
    try:
        return _decoder.decode(data) if data else NOTHING
    except (msgspec.MsgspecError, RecursionError):
        return NOTHING
