"""Which daemons of an instance run where: one small file each, that names the process beyond doubt.

A pid alone may be somebody else's by now; with the time of its start and the boot it is one process. Beside them lies
the mark ``down``: somebody has asked for the end of the instance, and nothing of it may start again by itself.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.settings import Settings, private_folder

#: how the names of those begin whose place another has taken while they were frozen
REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Daemon:
    name: str
    host: str
    pid: int
    started: float  #: seconds since 1970, as the kernel tells

    @property
    def alive(self) -> bool:
        """Whether it runs on this host; what other hosts run is not known here."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < 2
        except psutil.NoSuchProcess:
            return False


def _folder(settings: Settings) -> Path:
    return settings.instance_dir / "pids"


def claim(settings: Settings, name: str) -> None:
    """Say that this process is that daemon, and no other; one that lives and was it keeps a file of another name."""
    private_folder(_folder(settings))
    me = psutil.Process()
    host = socket.gethostname()
    file = _file(settings, name, host)
    before = _read(file)
    if before is not None and before.alive and before.pid != me.pid:
        # frozen, and replaced: whoever stops the instance must find it
        aside = replace(before, name=f"{REPLACED}-{name}-{before.pid}")
        write_json(_file(settings, aside.name, host), asdict(aside), sync=False)
    write_json(file, asdict(Daemon(name, host, me.pid, me.create_time())), sync=False)
    release(settings, but=name)


def release(settings: Settings, but: str = "") -> None:
    """Remove the files of this process, no other's of the same name; it ends in order, or is ``but`` from now on."""
    here = socket.gethostname()
    for daemon in daemons(settings):
        if (daemon.host, daemon.pid) == (here, os.getpid()) and daemon.name != but:
            forget(settings, daemon)


def ask_down(settings: Settings) -> None:
    """The instance is to end: standbys on all hosts see it at their next look."""
    if settings.instance_dir.is_dir():
        (settings.instance_dir / "down").touch(0o600)


def down_asked(settings: Settings) -> bool:
    return (settings.instance_dir / "down").exists()


def clear_down(settings: Settings) -> None:
    (settings.instance_dir / "down").unlink(missing_ok=True)


def daemons(settings: Settings) -> list[Daemon]:
    found = []
    for file in sorted(_folder(settings).glob("[!.]*.json")) if _folder(settings).is_dir() else []:
        if (daemon := _read(file)) is not None:
            found.append(daemon)
    return found


def forget(settings: Settings, daemon: Daemon) -> None:
    _file(settings, daemon.name, daemon.host).unlink(missing_ok=True)


def _file(settings: Settings, name: str, host: str) -> Path:
    return _folder(settings) / f"{name}@{host}.json"


def _read(file: Path) -> Daemon | None:
    try:
        return Daemon(**json.loads(file.read_text()))
    except (ValueError, TypeError, OSError):
        return None
