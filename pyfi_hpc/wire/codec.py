"""Messages to bytes and back, one table of what each port accepts.

One frame carries a list of messages: everything that one commit made sendable to a peer is one frame
(a frame per task costs twenty times as much). Cost: about 0.3 us to encode and 0.6 us to decode a message
besides its payload bytes, which are copied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model import messages as m

_encoder = msgspec.msgpack.Encoder()
_ToBroker = m.FromClient | m.FromAgent

#: messages in one frame from outside: a few bytes each could fill the memory
_MESSAGES_MAX = 1 << 17

#: what each kind of port takes in
TO_BROKER = msgspec.msgpack.Decoder(Annotated[list[_ToBroker], msgspec.Meta(max_length=_MESSAGES_MAX)])
TO_CLIENT = msgspec.msgpack.Decoder(list[m.ToClient])
TO_AGENT = msgspec.msgpack.Decoder(list[m.ToAgent])
FROM_RANK = msgspec.msgpack.Decoder(Annotated[list[m.FromRank], msgspec.Meta(max_length=_MESSAGES_MAX)])
TO_RANK = msgspec.msgpack.Decoder(list[m.ToRank])


#: messages to one peer are cut into frames of about this size
FRAME_BYTES_GOAL = 8 << 20


def encode(batch: Sequence[m.Message]) -> bytes:
    return _encoder.encode(batch)


def frames(batch: Sequence[m.Message]) -> list[bytes]:
    """The batch as one frame, or as several where it is much; a large message goes alone."""
    frame = _encoder.encode(batch)
    if len(frame) <= FRAME_BYTES_GOAL or len(batch) == 1:
        return [frame]
    half = len(batch) // 2
    return frames(batch[:half]) + frames(batch[half:])


def decode(frame: bytes | memoryview, decoder: msgspec.msgpack.Decoder[Any]) -> list[Any]:
    """Decode one frame.

    Raises
    ------
    RemoteProtocolError
        Not msgpack, not a message of this port, wrong types, or missing fields. The text names the place.
    """
    try:
        return decoder.decode(frame)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RemoteProtocolError(f"malformed message: {error}") from None
