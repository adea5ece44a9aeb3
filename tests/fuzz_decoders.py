"""Looks for bytes that a decoder of ours does not stand: the frames of each port, and what runners decode.

    python tests/fuzz_decoders.py [-atheris_runs=100000] [-max_total_time=60]

Needs atheris, which follows what each input reaches in our code. Ends with the input that broke a decoder, or with 0.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["pyfi_hpc"]):
    from pyfi_hpc.errors import RemoteProtocolError
    from pyfi_hpc.runner import payload
    from pyfi_hpc.wire import codec

_PORTS = (codec.TO_BROKER, codec.TO_CLIENT, codec.TO_AGENT, codec.FROM_RANK, codec.TO_RANK)


def decode(data: bytes) -> None:
    for port in _PORTS:
        with suppress(RemoteProtocolError):
            codec.decode(data, port)
    for decoder in (payload.decode_value, payload.decode_call, payload.decode_error):
        with suppress(ValueError):
            decoder(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
