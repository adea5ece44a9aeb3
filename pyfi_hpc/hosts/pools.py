"""Stored pools of an instance: ``INSTANCE/pools``, per pool what was asked for, what it has come to, and its log.

::

    NAME.json    the pool, written by ``pyfi alloc``
    NAME.state   what the elastic process knew and decided last
    NAME.log     what it did and why, a line each
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.core.demand import shape_of
from pyfi_hpc.errors import NotFound, SettingsError, UsageError
from pyfi_hpc.model.allocations import Pool
from pyfi_hpc.settings import Settings, private_folder

#: a pool's log is cut to its newer half beyond this, bytes
_LOG_BYTES_MAX = 1 << 18
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def tag(settings: Settings) -> str:
    """What the marks of our jobs name: this instance in this home, and no other of the same name."""
    return hashlib.sha256(str(settings.instance_dir).encode()).hexdigest()[:12]


def check_name(name: str) -> str:
    """
    Raises
    ------
    UsageError
        It is not a plain name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an allocation pool", where="pyfi alloc",
            fix="letters, digits, - and _; it begins with a letter or digit",
        )  # fmt: skip
    return name


def stored(settings: Settings) -> dict[str, Pool]:
    """All pools by name.

    Raises
    ------
    SettingsError
        A file is damaged.
    """
    found = {}
    for file in sorted(_folder(settings).glob("*.json")):
        with suppress(FileNotFoundError):  # just removed
            found[file.stem] = _read(file)
    return found


def find(settings: Settings, name: str) -> Pool:
    """
    Raises
    ------
    NotFound
        There is no such pool.
    """
    with suppress(FileNotFoundError):
        return _read(_folder(settings) / f"{check_name(name)}.json")
    known = ", ".join(stored(settings)) or "none"
    raise NotFound(f"there is no allocation pool {name!r}", where=str(_folder(settings)), fix=f"pools are: {known}")


def shapes(known: dict[str, Pool]) -> list[Any]:
    """What the broker is told may come, with the verb ``backlog``: it refuses what fits neither that nor a node."""
    return [msgspec.to_builtins(shape_of(pool.request)) for pool in known.values()]


def store(settings: Settings, pool: Pool) -> None:
    """Keep a pool. A new one begins a log of its own."""
    private_folder(_folder(settings))
    if not (_folder(settings) / f"{check_name(pool.name)}.json").exists():
        (_folder(settings) / f"{pool.name}.log").unlink(missing_ok=True)
    values = msgspec.to_builtins(pool, enc_hook=str)
    write_json(_folder(settings) / f"{check_name(pool.name)}.json", values)


def remove(settings: Settings, name: str) -> None:
    """Forget a pool; its log stays until one of the same name is added."""
    find(settings, name)
    for ending in ("json", "state"):
        (_folder(settings) / f"{name}.{ending}").unlink(missing_ok=True)


def write_state(settings: Settings, name: str, values: dict[str, Any]) -> None:
    if (_folder(settings) / f"{name}.json").exists():  # else it was just removed
        write_json(_folder(settings) / f"{name}.state", values, sync=False)


def state(settings: Settings, name: str) -> dict[str, Any]:
    """What the elastic process wrote last; empty: nothing yet."""
    try:
        found = json.loads((_folder(settings) / f"{name}.state").read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write_log(settings: Settings, name: str, line: str) -> None:
    file = _folder(settings) / f"{name}.log"
    with suppress(OSError):  # a full disk: there is nowhere to say it
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "a") as stream:
            stream.write(line + "\n")
        if file.stat().st_size > _LOG_BYTES_MAX:
            lines = file.read_text(errors="replace").splitlines(keepends=True)
            file.write_text("".join(lines[len(lines) // 2 :]))


def log(settings: Settings, name: str) -> list[str]:
    try:
        return (_folder(settings) / f"{name}.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _read(file: Path) -> Pool:
    try:
        return msgspec.convert(json.loads(file.read_text()), Pool, strict=False, dec_hook=lambda kind, raw: kind(raw))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"the allocation pool cannot be read: {error}", where=str(file), fix="`pyfi alloc add` it again"
        ) from error


def _folder(settings: Settings) -> Path:
    return settings.instance_dir / "pools"
