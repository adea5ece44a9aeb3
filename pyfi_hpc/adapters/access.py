"""The access file: where the broker of an instance is, and the keys that let one in.

0600 in a 0700 folder: whoever can read it is the instance's owner. Keys never appear in arguments, environment
or logs. The broker keeps its own secret in ``broker.key`` beside it, which nobody else needs.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import zmq

from pyfi_hpc.errors import BrokerUnreachable, Refused, SettingsError
from pyfi_hpc.settings import Settings, private_folder

VERSION = 1


class Access(msgspec.Struct, frozen=True):
    """Address and keys; ``hosts`` are tried in order."""

    version: int
    instance: str
    host: str
    port: int
    broker_public: str
    client_public: str
    client_secret: str
    agent_public: str
    agent_secret: str

    @property
    def endpoint(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    @property
    def is_for_agents(self) -> bool:
        """Whether it lets in agents only: it lies on a node that does not see the instance's home."""
        return not self.client_public and not self.client_secret

    def for_agents(self) -> dict[str, object]:
        """What a node needs of it and no more."""
        kept: dict[str, object] = msgspec.to_builtins(self)
        return kept | {"client_public": "", "client_secret": ""}


def read(settings: Settings) -> Access:
    """Read the access file.

    Raises
    ------
    BrokerUnreachable
        There is none: no instance of this name was started here.
    Refused
        It can be read by others, or belongs to somebody else.
    SettingsError
        It is damaged, or of another version.
    """
    file = settings.access_file
    try:
        raw = _read_private(file)
    except FileNotFoundError:
        raise BrokerUnreachable(
            f"no instance {settings.instance!r} has been started", where=str(file),
            fix="start one with `pyfi up`, or name another with --instance or PYFI_INSTANCE",
        ) from None  # fmt: skip
    try:
        access = msgspec.json.decode(raw, type=Access)
    except (msgspec.MsgspecError, ValueError) as error:
        raise SettingsError(
            f"the access file is damaged: {error}", where=str(file), fix="remove it and start the instance again"
        ) from None
    if access.version != VERSION:
        raise SettingsError(
            f"the access file has version {access.version}, this is version {VERSION}", where=str(file),
            fix="use the same version of pyfi_hpc on both sides",
        )  # fmt: skip
    keys = (access.broker_public, access.client_public, access.client_secret)
    if access.is_for_agents:
        keys = (access.broker_public, access.agent_public, access.agent_secret)
    if any(len(key) != 40 or not key.isascii() for key in keys):
        raise SettingsError(
            "the access file has a damaged key", where=str(file), fix="remove it and start the instance again"
        )
    return access


def write(settings: Settings, access: Access) -> None:
    _write_private(settings.access_file, msgspec.json.encode(access))


def make(settings: Settings) -> tuple[Access, str]:
    """The access of this instance and the broker's secret key; made when there is none yet."""
    private_folder(settings.home)
    private_folder(settings.instance_dir)
    secret_file = settings.instance_dir / "broker.key"
    try:
        return read(settings), _read_private(secret_file).decode()
    except (BrokerUnreachable, FileNotFoundError):
        pass
    broker, client, agent = zmq.curve_keypair(), zmq.curve_keypair(), zmq.curve_keypair()
    access = Access(
        VERSION, settings.instance, "127.0.0.1", 0, broker[0].decode(), client[0].decode(), client[1].decode(),
        agent[0].decode(), agent[1].decode(),
    )  # fmt: skip
    _write_private(secret_file, broker[1])
    write(settings, access)
    return access, broker[1].decode()


def _read_private(file: Path) -> bytes:
    try:
        # never waits, should it be a pipe
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(
            f"the file with the keys cannot be read: {error.strerror}", where=str(file),
            fix="use an instance of your own: `pyfi up`",
        ) from None  # fmt: skip
    with os.fdopen(descriptor, "rb") as stream:
        info = os.fstat(descriptor)
        if info.st_uid != os.getuid() or not stat.S_ISREG(info.st_mode):
            raise Refused(
                f"the file with the keys belongs to uid {info.st_uid}, not to you", where=str(file),
                fix="use an instance of your own: `pyfi up`",
            )  # fmt: skip
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise Refused(
                f"others can use the file with the keys (mode {stat.S_IMODE(info.st_mode):04o})", where=str(file),
                fix=f"stop the instance, remove {file} and start it again: it gets new keys",
            )  # fmt: skip
        return stream.read()


def _write_private(file: Path, data: bytes, sync: bool = True) -> None:
    """Write beside, then rename: a reader sees the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        if sync:
            os.fsync(descriptor)
    os.replace(temporary, file)


def write_json(file: Path, value: object, sync: bool = True) -> None:
    """Without ``sync`` for what means nothing after the machine has gone down: on a busy disk to sync takes seconds."""
    _write_private(file, json.dumps(value, indent=1).encode(), sync)
