"""A host as it was asked for, before anybody has looked into a configuration; the same for both ways of reaching it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pyfi_hpc.errors import UsageError

#: asks a person: (question, whether what is typed may be seen) -> answer
Ask = Callable[[str, bool], str]

#: a connection has so long to be there, seconds
CONNECT_S = 15.0
#: a command that beats each 2 s and is silent for so long has lost its connection, seconds
SILENT_S = 20.0
#: what a command may print, bytes; more is cut off
OUTPUT_BYTES_MAX = 1 << 20

_HOST = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9._:%\[\]-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._\\@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom. Empty: what ``~/.ssh/config`` says, else what ssh takes."""

    host: str
    user: str = ""
    port: int = 0
    jump: str = ""
    identity: str = ""
    via: str = "paramiko"
    #: socket of an OpenSSH connection that the operator has opened; for ``via="ssh"``
    control: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command on another host ended."""

    code: int
    stdout: bytes
    stderr: bytes


def split(text: str) -> tuple[str, str, int]:
    """User, host and port of ``[USER@]HOST[:PORT]``; an IPv6 address with a port stands in brackets.

    Raises
    ------
    UsageError
        It is none: what ssh could take for an option is refused here.

    >>> split("me@login:2222"), split("n1"), split("fe80::1")
    (('me', 'login', 2222), ('', 'n1', 0), ('', 'fe80::1', 0))
    """
    user, at, host = text.rpartition("@")
    port = 0
    name, colon, digits = host.rpartition(":")
    if colon and digits.isdigit() and (":" not in name or (name.startswith("[") and name.endswith("]"))):
        host, port = name, int(digits)
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not _HOST.fullmatch(host) or (at and not _USER.fullmatch(user)) or port > 65535:
        fix = "write HOST, USER@HOST or an alias of ~/.ssh/config"
        raise UsageError(f"{text!r} is not a host", where="--ssh", fix=fix)
    return user, host, port
