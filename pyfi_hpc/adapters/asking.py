"""Questions to the broker from a daemon that submits nothing: one after the other, each with a time limit."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Any

import msgspec
import zmq

from pyfi_hpc.adapters import access
from pyfi_hpc.adapters.access import Access
from pyfi_hpc.adapters.zeromq import harden
from pyfi_hpc.errors import BrokerUnreachable, PyfiError, RemoteProtocolError, from_code
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec


class Asker:
    """Used by one thread. It follows the broker by the access file, and keeps its connection."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._hello = m.Hello(
            PROTOCOL_VERSION, "client", f"{name}@{socket.gethostname()}:{os.getpid()}", secrets.token_hex(8)
        )
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._found: Access | None = None
        self._request = 0

    def ask(self, verb: str, body: dict[str, Any], limit_s: float) -> bytes:
        """The broker's answer, as msgpack.

        Raises
        ------
        BrokerUnreachable
            None within the limit.
        PyfiError
            The class that the broker named, with its words.
        """
        line = self._connected()
        self._request += 1
        question = m.Ask(self._request, verb, msgspec.msgpack.encode(body))
        # Hello each time: the broker may be another one since, and one that knows us takes it for a reconnect
        line.send(codec.encode([self._hello, question]))
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not line.poll(int(left_s * 1000) + 1):
                continue
            try:
                messages = codec.decode(line.recv(), codec.TO_CLIENT)
            except RemoteProtocolError:
                continue
            for message in messages:
                if type(message) is m.Denied:
                    raise PyfiError(message.what, where=verb, fix=message.fix)
                if type(message) is m.Answer and message.request == self._request:
                    if message.ok:
                        return message.body
                    told = msgspec.msgpack.decode(message.body)
                    raise from_code(told["code"], told["what"], told["where"], told["fix"])
        self.close_line()
        raise BrokerUnreachable(f"the broker has not answered within {limit_s:.0f} s", where=str(self._where))

    @property
    def _where(self) -> str:
        return self._found.endpoint if self._found else str(self._settings.access_file)

    def _connected(self) -> zmq.Socket[bytes]:
        found = access.read(self._settings)
        if self._socket is None or found != self._found:
            self.close_line()
            line = self._context.socket(zmq.DEALER)
            harden(line, Limits().message_bytes_max)
            line.ipv6 = ":" in found.host
            line.curve_serverkey = found.broker_public.encode()
            line.curve_publickey = found.client_public.encode()
            line.curve_secretkey = found.client_secret.encode()
            line.connect(found.endpoint)
            self._socket, self._found = line, found
        return self._socket

    def close_line(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def close(self) -> None:
        with suppress(zmq.ZMQError):
            self.close_line()
            self._context.term()
