"""Commands on another host over a connection of our own, by paramiko.

Who is on the other side is settled before anything is said to it: its key must be in a ``known_hosts`` file, or be
the one whose fingerprint a person has named. How we are let in: ``adapters/ssh_login.py``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import IO, Any

import paramiko
from paramiko.ssh_exception import SSHException

from pyfi_hpc.adapters import known_hosts
from pyfi_hpc.adapters.ssh_config import Place, places
from pyfi_hpc.adapters.ssh_login import LogIn, said
from pyfi_hpc.adapters.ssh_target import CONNECT_S, OUTPUT_BYTES_MAX, SILENT_S, Ask, Login, Output
from pyfi_hpc.errors import HostKeyRefused, HostUnreachable

#: a person who is asked has so long to answer, seconds
_ANSWER_S = 120.0
_STEP_S = 0.01
_CHUNK_BYTES = 1 << 15
#: kinds of a key in known_hosts -> algorithms that prove it, the best first
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}

# what goes wrong is told as an error of ours; its threads would print tracebacks
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class ParamikoRemote:
    """A connection to one host, through others where the configuration or ``jump`` says so.

    Parameters
    ----------
    ask : callable or None
        Asks a person; None: nobody is there to be asked.
    accept : collection of str
        Fingerprints (``SHA256:...``) of keys that are taken though no file knows them; they are then written down.

    Raises
    ------
    HostUnreachable, HostKeyRefused, LoginRefused
    SettingsError
        The configuration cannot be read.
    """

    def __init__(self, login: Login, ask: Ask | None, accept: frozenset[str] = frozenset()) -> None:
        self.host = login.host
        self._ask, self._accept = ask, accept
        self._open: list[paramiko.Transport] = []
        try:
            for place in places(login):
                self._hop(place)
        except BaseException:
            self.close()
            raise

    @property
    def _transport(self) -> paramiko.Transport:
        return self._open[-1]

    def run(self, command: str, stdin: IO[bytes] | None, limit_s: float, *, beats: bool = False) -> Output:
        try:
            channel = self._transport.open_session(timeout=CONNECT_S)
            channel.exec_command(command)
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(said(error)) from None
        feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
        feeder.start()
        try:
            return self._collect(channel, time.monotonic() + limit_s, limit_s, beats)
        finally:
            channel.close()
            feeder.join(1.0)

    def close(self) -> None:
        for transport in reversed(self._open):
            transport.close()

    def _collect(self, channel: paramiko.Channel, deadline: float, limit_s: float, beats: bool) -> Output:
        out, err = bytearray(), bytearray()
        heard = time.monotonic()
        while True:
            # asked before reading: what came before the end is then there
            ended = channel.exit_status_ready() and (channel.eof_received or channel.closed)
            read = _take(channel.recv_ready, channel.recv, out) + _take(
                channel.recv_stderr_ready, channel.recv_stderr, err
            )
            now = time.monotonic()
            heard = now if read else heard
            if ended and not read:
                return Output(channel.recv_exit_status(), bytes(out), bytes(err))
            if not self._transport.is_active():
                raise self._lost("it was closed")
            if now > deadline:
                raise self._lost(f"no end within {limit_s:.0f} s")
            if beats and now - heard > SILENT_S:
                raise self._lost(f"silent for {SILENT_S:.0f} s")
            if not read:
                time.sleep(_STEP_S)

    def _lost(self, why: str) -> HostUnreachable:
        return HostUnreachable(
            f"the connection broke: {why}", where=self.host, fix="try again; what was complete there is used again"
        )

    # --- one hop ------------------------------------------------------------------------------------

    def _hop(self, place: Place) -> None:
        transport = paramiko.Transport(self._wire(place))
        self._open.append(transport)
        transport.banner_timeout = transport.handshake_timeout = CONNECT_S
        transport.auth_timeout = _ANSWER_S if self._ask else CONNECT_S
        known = known_hosts.find(place.known_hosts, place.key_name)
        _prefer(transport, [key.kind for key in known if not key.revoked])
        try:
            transport.start_client(timeout=CONNECT_S)
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(place, f"no ssh connection: {said(error)}") from None
        self._check_key(place, known, transport.get_remote_server_key())
        transport.set_keepalive(5)
        LogIn(transport, place, self._ask).run()

    def _wire(self, place: Place) -> Any:
        """A connection for ssh: a socket, or a channel through the host before."""
        try:
            if self._open:
                goal = (place.address, place.port)
                return self._transport.open_channel("direct-tcpip", goal, ("127.0.0.1", 0), timeout=place.connect_s)
            return socket.create_connection((place.address, place.port), place.connect_s)
        except TimeoutError:
            raise self._unreachable(place, f"no answer within {place.connect_s:.0f} s") from None
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(place, said(error)) from None

    def _unreachable(self, place: Place, why: str) -> HostUnreachable:
        way = f" (on the way to {self.host})" if place.name != self.host else ""
        return HostUnreachable(
            f"{place.name} does not answer: {why}", where=f"{place.address} port {place.port}{way}",
            fix=f"see that `ssh {self.host} true` works",
        )  # fmt: skip

    def _check_key(self, place: Place, known: list[known_hosts.KnownKey], shown: paramiko.PKey) -> None:
        key, kind = shown.asbytes(), shown.get_name()
        print_ = known_hosts.fingerprint(key)
        where = f"{place.key_name}, {kind}"
        if any(line.revoked and line.key == key for line in known):
            raise HostKeyRefused(
                f"the key that {place.name} shows was revoked ({print_})", where=where,
                fix="do not connect; tell who runs this host",
            )  # fmt: skip
        if any(line.key == key for line in known if not line.revoked):
            return
        changed = next((line for line in known if line.kind == kind and not line.revoked), None)
        if changed is not None:
            raise HostKeyRefused(
                f"the key of {place.name} HAS CHANGED: it shows {print_}, known is "
                f"{known_hosts.fingerprint(changed.key)}; somebody may be in between",
                where=f"{where}; known from {changed.where}",
                fix="ask who runs the host; only if it was set up anew, take that line out: "
                f"`ssh-keygen -R '{place.key_name}'`",
            )
        if print_ not in self._accept:
            raise HostKeyRefused(
                f"the key of {place.name} is not known: {print_}", where=where,
                fix=f"compare it with what its administrator says, then: --accept-host-key {print_} "
                f"(or `ssh {self.host}` once)",
            )  # fmt: skip
        known_hosts.add(place.known_hosts[0], place.key_name, kind, key)


def _prefer(transport: paramiko.Transport, kinds: list[str]) -> None:
    """Ask for keys of the kinds that are known, as ssh does: a host has several."""
    options = transport.get_security_options()
    first = [name for kind in kinds for name in _ALGORITHMS.get(kind, (kind,))]
    all_ = list(options.key_types)
    options.key_types = tuple(dict.fromkeys([name for name in first if name in all_] + all_))


def _feed(channel: paramiko.Channel, stdin: IO[bytes] | None) -> None:
    try:
        while stdin is not None and (piece := os.read(stdin.fileno(), _CHUNK_BYTES)):
            channel.sendall(piece)
        channel.shutdown_write()
    except (OSError, SSHException, EOFError):
        pass  # the command has ended early; its exit code tells


def _take(ready: Any, receive: Any, into: bytearray) -> int:
    count = 0
    while ready():
        piece = receive(_CHUNK_BYTES)
        if not piece:
            break
        count += len(piece)
        if len(into) < OUTPUT_BYTES_MAX:
            into += piece
    return count
