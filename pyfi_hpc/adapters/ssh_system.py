"""Commands on another host by the system's ``ssh``: its configuration, its agents, and connections that are open.

A person who must type a second factor opens a connection once (``ssh -M -S SOCKET HOST``); what is run here goes
through it. ``ssh`` itself never asks: BatchMode.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import IO

from pyfi_hpc.adapters.ssh_target import CONNECT_S, OUTPUT_BYTES_MAX, Login, Output
from pyfi_hpc.errors import HostKeyRefused, HostUnreachable, LoginRefused, PyfiError, SiteError

#: exit code of ssh itself
_SSH_FAILED = 255


class SystemRemote:
    """One host, reached by a run of ``ssh`` for each command."""

    def __init__(self, login: Login) -> None:
        self.host = login.host
        program = shutil.which("ssh")
        if program is None:
            fix = "install OpenSSH, or leave out --via ssh"
            raise SiteError("there is no ssh on this machine", where="PATH", fix=fix)
        self._login = login
        self._command = [program, *_options(login), login.host]

    def run(self, command: str, stdin: IO[bytes] | None, limit_s: float, *, beats: bool = False) -> Output:
        process = subprocess.Popen(
            [*self._command, command], stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise HostUnreachable(
                    f"no end within {limit_s:.0f} s", where=self.host, fix=f"see that `ssh {self.host} true` works"
                ) from None
            raise
        if process.returncode == _SSH_FAILED:
            raise self._failed(err.decode(errors="replace").strip())
        return Output(process.returncode, out[-OUTPUT_BYTES_MAX:], err[-OUTPUT_BYTES_MAX:])

    def close(self) -> None:
        """Nothing is held: a connection that the operator has opened stays open."""

    def _failed(self, words: str) -> PyfiError:
        said = words.splitlines()[-1] if words else "ssh ended with 255"
        if "Host key verification failed" in words or "REMOTE HOST IDENTIFICATION HAS CHANGED" in words:
            return HostKeyRefused(
                f"ssh does not take the host's key: {said}", where=self.host,
                fix=f"`ssh {self.host}` once shows it; compare it with what its administrator says",
            )  # fmt: skip
        if "Permission denied" in words:
            return LoginRefused(
                f"ssh is not let in: {said}", where=self.host,
                fix=f"open a connection: `ssh -M -S SOCKET -fN {self.host}`, then --control SOCKET "
                "(or ControlPath in ~/.ssh/config)",
            )  # fmt: skip
        return HostUnreachable(f"ssh failed: {said}", where=self.host, fix=f"see that `ssh {self.host} true` works")


def _options(login: Login) -> list[str]:
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S:.0f}"]
    # a connection that is open is used, none is left open, and nothing of the configuration gets in between
    for option in (
        "ControlMaster=no", "StrictHostKeyChecking=yes", "ClearAllForwardings=yes", "PermitLocalCommand=no",
        "RemoteCommand=none", "ServerAliveInterval=5", "ServerAliveCountMax=3",
    ):  # fmt: skip
        options += ["-o", option]
    for flag, value in (("-l", login.user), ("-p", login.port), ("-J", login.jump), ("-i", login.identity)):
        if value:
            options += [flag, str(value)]
    if login.control:
        options += ["-S", login.control]
    return options
