"""The access file: where the broker of an instance listens, and the keys that let its owner in.

``pyfi up`` writes it. Whoever can read it is the instance's owner (DESIGN, section 8), so a file that
others can read, or that somebody else wrote, is refused rather than believed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pyfi_hpc.errors import BrokerUnreachable, Refused, SettingsError

ACCESS_VERSION = 1


class _File(msgspec.Struct):
    """What this side reads of the file; the broker may keep more in it."""

    version: int
    instance: str
    host: str
    port: int
    broker_public: str
    client_public: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class Access:
    """Address and keys, as read; equal when a reconnect would go to the same broker."""

    instance: str
    host: str
    port: int
    broker_public: bytes
    client_public: bytes
    client_secret: bytes
    file: str

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    def __repr__(self) -> str:
        # The secret must not reach a log or a traceback.
        return f"Access({self.instance!r}, {self.address})"


def read_access(file: Path) -> Access:
    """Read and check an access file.

    Raises
    ------
    BrokerUnreachable
        There is no such file: the instance was never started, or it is another home or another name.
    Refused
        Somebody else owns the file, or others can read it.
    SettingsError
        The file is not what ``pyfi up`` writes.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BrokerUnreachable(
            f"no instance {file.parent.name!r} runs here", where=f"looked for {file}",
            fix="start one with `pyfi up`, or set PYFI_INSTANCE and PYFI_HOME to one that runs",
        ) from None  # fmt: skip
    except OSError as error:
        raise BrokerUnreachable(f"cannot read the access file: {error.strerror}", where=str(file)) from None
    with os.fdopen(descriptor, "rb") as stream:
        _check_owner(os.fstat(descriptor), file)
        text = stream.read(1 << 16)
    return _parse(text, file)


def _check_owner(info: os.stat_result, file: Path) -> None:
    if info.st_uid not in (os.getuid(), 0) or not stat.S_ISREG(info.st_mode):
        raise Refused(
            f"the access file belongs to uid {info.st_uid}, not to you", where=str(file),
            fix="use an instance of your own: `pyfi up`",
        )  # fmt: skip
    if info.st_mode & 0o077:
        raise Refused(
            f"others can use the access file (mode {stat.S_IMODE(info.st_mode):04o})", where=str(file),
            fix="restart the instance with `pyfi down` and `pyfi up`, so that it gets new keys",
        )  # fmt: skip


def _parse(text: bytes, file: Path) -> Access:
    try:
        content = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, ValueError) as error:
        raise SettingsError(
            f"the access file is damaged: {error}",
            where=str(file),
            fix="restart the instance: `pyfi down`, `pyfi up`",
        ) from None
    if content.version != ACCESS_VERSION:
        raise SettingsError(
            f"the access file has version {content.version}, this is version {ACCESS_VERSION}", where=str(file),
            fix="use the same version of pyfi_hpc on both sides",
        )  # fmt: skip
    keys = [
        key.encode("ascii", "replace")
        for key in (content.broker_public, content.client_public, content.client_secret)
    ]
    if any(len(key) != 40 for key in keys):
        raise SettingsError("the access file has a damaged key", where=str(file), fix="restart the instance")
    return Access(content.instance, content.host, content.port, *keys, file=str(file))
