"""Daemons as processes: how they are started and told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyfi_hpc.adapters.pidfile import Daemon
from pyfi_hpc.settings import Settings, private_folder

#: a daemon that is no longer wanted has so long to end, seconds
_END_S = 8.0
#: daemons that this process started: to be collected when they end, if it lives so long
children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Part:
    """What was started, for people: name, what about it, seconds that it took."""

    name: str
    text: str
    seconds: float


def spawn(settings: Settings, host: str, extra: list[str], keep: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a host as a daemon; its log takes what it prints."""
    private_folder(settings.home)
    private_folder(settings.instance_dir)
    private_folder(settings.log_dir)
    command = [
        sys.executable, "-m", f"pyfi_hpc.hosts.{host}", "--instance", settings.instance, "--home", str(settings.home),
        *extra,
    ]  # fmt: skip
    environment = {**os.environ, **_as_environment(settings)}
    with open(settings.log_dir / f"{host}.out", "ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep, start_new_session=True,
            env=environment, cwd="/",
        )  # fmt: skip
    children[:] = [old for old in children if old.poll() is None] + [child]
    return child


def _as_environment(settings: Settings) -> dict[str, str]:
    """What the daemon cannot know from its flags; the ledger's URL may hold a password: never in arguments."""
    names = {name: str(getattr(settings, name)) for name in ("scratch", "bind", "ledger", "pg_bin")}
    names |= {name: ",".join(getattr(settings, name)) for name in ("budgets", "resources", "labels", "gpus")}
    return {"PYFI_" + name.upper(): value for name, value in names.items() if value}


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a daemon that this process has just started: it may have no pid file yet."""
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def tell_to_end(daemon: Daemon) -> None:
    """Ask a process of this host to end."""
    # a stopped process takes the signal when it goes on
    for number in (signal.SIGTERM, signal.SIGCONT):
        with suppress(ProcessLookupError):
            os.kill(daemon.pid, number)
