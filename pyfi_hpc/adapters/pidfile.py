"""Which daemons of an instance run where: one small file each, that names the process beyond doubt.

A pid alone may be somebody else's by now; with the time of its start and the boot it is one process.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.settings import Settings, private_folder


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


def claim(settings: Settings, name: str) -> Path:
    """Say that this process is that daemon; the file goes when it ends in order."""
    private_folder(_folder(settings))
    me = psutil.Process()
    host = socket.gethostname()
    file = _folder(settings) / f"{name}@{host}.json"
    write_json(file, asdict(Daemon(name, host, os.getpid(), me.create_time())))
    return file


def daemons(settings: Settings) -> list[Daemon]:
    found = []
    for file in sorted(_folder(settings).glob("[!.]*.json")) if _folder(settings).is_dir() else []:
        try:
            found.append(Daemon(**json.loads(file.read_text())))
        except (ValueError, TypeError, OSError):
            continue
    return found


def forget(settings: Settings, daemon: Daemon) -> None:
    (_folder(settings) / f"{daemon.name}@{daemon.host}.json").unlink(missing_ok=True)
