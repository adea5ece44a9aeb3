"""One computer that looks like several, for tests: process trees with network, name and files of their own.

A machine ends, with all that ran on it, when its first process ends; and that ends with the process which
started it, also when that is killed. A machine's ``/tmp`` and ``/dev/shm`` are its own, all other files are
those of this computer. Needs root, util-linux and iproute2.
"""

from __future__ import annotations

import fcntl
import functools
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: not in /tmp: that is private to each machine
BASE = Path("/var/tmp")
_HOSTS = Path("/etc/hosts")

_INIT = """\
echo {name} > /proc/sys/kernel/hostname
mount --bind {hosts} /etc/hosts
mount --bind {repo} {folder}/repo
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ -d {repo} ] || {{ mkdir -p {repo} && mount --bind {folder}/repo {repo}; }}
umount {folder}/repo
: > {folder}/ready
while :; do sleep 3600 & wait $!; done
"""


class Machine:
    """A running machine without a network; `wire` gives it one.

    Parameters
    ----------
    name : str
        Its hostname.
    folder : Path
        An empty folder for its logs.
    hosts : Path
        The file that it sees as ``/etc/hosts``.
    """

    def __init__(self, name: str, folder: Path, hosts: Path) -> None:
        self.name, self.folder = name, folder
        (folder / "repo").mkdir()
        repo = Path(__file__).resolve().parent.parent  # it may lie in /tmp
        script = _INIT.format(name=name, folder=folder, hosts=hosts, repo=repo)
        with open(folder / "init.log", "wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *unshare(), "sh", "-ec", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 10
        while not (folder / "ready").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                self._process.wait(10)
                raise RuntimeError(f"{name} did not start: " + (folder / "init.log").read_text())
            time.sleep(0.01)
        #: its first process, as this computer numbers it
        self.pid = next(pid for pid in _all_pids() if _parent(pid) == self._process.pid)

    def enter(self, *command: str) -> list[str]:
        """The command line that runs a command inside."""
        # --root: entering the mounts alone would leave a chroot that we may be in
        spaces = ("--net", "--uts", "--mount", "--ipc", "--pid", "--root", "--wd")
        return ["nsenter", "--target", str(self.pid), *spaces, *command]

    def ip(self, line: str) -> None:
        """Run an ``ip`` command in the machine's network."""
        ip(line, inside=self.pid)

    def pids(self, text: str = "") -> list[int]:
        """Its processes, as this computer numbers them, whose command line has ``text``."""
        space = _inode(f"/proc/{self.pid}/ns/pid")
        here = [pid for pid in _all_pids() if _inode(f"/proc/{pid}/ns/pid") == space]
        return [pid for pid in here if text in command_line(pid)]

    def guests(self) -> list[int]:
        """Its processes beside those that make it a machine."""
        return [pid for pid in self.pids() if pid != self.pid and "sleep 3600" not in command_line(pid)]

    def stop(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(10)
        deadline = time.monotonic() + 10
        while is_alive(self.pid):
            assert time.monotonic() < deadline, f"{self.name} does not end"
            time.sleep(0.01)


@functools.cache
def unshare() -> tuple[str, ...]:
    """The command that starts a process as a machine of its own, whose mounts stay its own.

    Raises
    ------
    OSError
        It is not possible here, and why.
    """
    spaces = "--net --uts --ipc --pid --fork --kill-child --mount-proc --mount"
    machine: tuple[str, ...] = ("unshare", *spaces.split())
    trial = subprocess.run([*machine, "true"], capture_output=True, text=True, timeout=10, check=False)
    if not trial.returncode:
        return machine
    # In a chroot the root is no mount point, so unshare cannot cut the ties to the outer mounts. They may be
    # cut already: mount something inside, and look whether it shows outside.
    machine = (*machine, "--propagation", "unchanged")
    with tempfile.TemporaryDirectory(dir=BASE) as folder:
        look = ["sh", "-c", 'mount -t tmpfs tmpfs "$0" && echo mounted && read -r end', folder]
        with subprocess.Popen(
            [*machine, *look], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as inside:
            assert inside.stdout is not None
            mounted = inside.stdout.readline()
            leaks = os.path.ismount(folder)
        if leaks:
            subprocess.run(["umount", folder], timeout=10, check=True)
    if not mounted or leaks:
        raise OSError(f"namespaces ({trial.stderr.strip()})")
    return machine


def ip(line: str, inside: int = 0) -> None:
    """Run an ``ip`` command, in the network of the process ``inside`` if there is one given."""
    enter = ["nsenter", "--target", str(inside), "--net"] if inside else []
    done = subprocess.run(
        [*enter, "ip", *line.split()], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip {line}: {done.stderr.strip()}")


def free_network() -> str:
    """The first three numbers of a network that this computer has no route to."""
    used = subprocess.run(["ip", "route"], capture_output=True, text=True, timeout=10, check=True).stdout
    while (net := f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}") in used:
        pass
    return net


def edit_hosts(mark: str, add: list[str]) -> None:
    """Take the lines with this mark out of /etc/hosts and put others in; in place: it may be a bind mount."""
    end = f" # {mark}"
    with open(_HOSTS, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        kept = [line for line in before.splitlines() if not line.endswith(end)]
        after = "\n".join(kept + [line + end for line in add]) + "\n"
        if after != before:
            file.seek(0)
            file.write(after)
            file.truncate()


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


def started(pid: int) -> str:
    """When the process began, in clock ticks: tells it from a later one with the same number."""
    return (_stat(pid) or [""] * 20)[19]


def is_alive(pid: int) -> bool:
    """Whether it still runs; one that only waits to be collected does not."""
    return (_stat(pid) or ["Z"])[0] != "Z"


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def command_line(pid: int) -> str:
    """The process's arguments with blanks between; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def program(pid: int) -> str:
    """The short name of what the process runs; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
