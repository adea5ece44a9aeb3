"""Hosts that are network namespaces of this computer, each with a cable of its own to one switch.

::

    this computer  10.x.y.1    --veth--+
                                     bridge   in a namespace of its own, so nothing is left of it in the end
    NAME           10.x.y.11.. --veth--+      agents and ranks; files and process ids are this computer's

Each cable can be down, go one way only, be slow, or be taken away with all that is in it. Needs root, iproute2 and
util-linux; `missing` tells what is not there.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from instance_fixture import Instance
from machines import free_network, ip

T = TypeVar("T")
_NEW_NET = 0x40000000  # CLONE_NEWNET
#: an Ethernet address that nobody has
_NOBODY = "02:00:00:00:00:01"


def missing() -> list[str]:
    """What this computer lacks for such hosts, in words."""
    lacks = [name for name in ("ip", "unshare", "setpriv") if not shutil.which(name)]
    if os.geteuid() != 0:
        return [*lacks, "root"]
    trial = ["unshare", "--net", "true"]
    if not lacks and subprocess.run(trial, capture_output=True, timeout=10, check=False).returncode:
        lacks.append("network namespaces")
    return lacks


class Space:
    """A network namespace; it ends with the process that made it, at the latest."""

    def __init__(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        deadline = time.monotonic() + 10
        while self.inode == os.stat("/proc/self/ns/net").st_ino:
            assert time.monotonic() < deadline, "no network namespace"
            time.sleep(0.005)
        self.ip("link set lo up")

    @property
    def inode(self) -> int:
        """By which processes inside know it: of their ``/proc/self/ns/net``."""
        return os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def ip(self, line: str) -> None:
        ip(line, inside=self.pid)

    def tc(self, line: str) -> None:
        enter = ["nsenter", "--target", str(self.pid), "--net"]
        subprocess.run([*enter, "tc", *line.split()], check=True, capture_output=True, timeout=10)

    def call(self, what: Callable[[], T]) -> T:
        """Call it in a thread that lives in this network; what it starts lives there too."""
        with ThreadPoolExecutor(1, initializer=self._enter) as pool:
            return pool.submit(what).result(60)

    def _enter(self) -> None:
        with open(f"/proc/{self.pid}/ns/net") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEW_NET):
                raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


class Host:
    """One host and its cable."""

    def __init__(self, lan: Lan, name: str, address: str) -> None:
        self._lan, self.name, self.address = lan, name, address
        self.space = Space()
        self.plug_in()

    def plug_in(self) -> None:
        """A new cable."""
        self._lan.switch.ip(f"link add {self.name} type veth peer name eth0 netns {self.space.pid}")
        self._lan.switch.ip(f"link set {self.name} master br0 up")
        self.space.ip(f"addr add {self.address}/24 dev eth0")
        self.space.ip("link set eth0 up")

    def unplug(self) -> None:
        """The cable and whatever was in it are gone for good; no end is told."""
        self._lan.switch.ip(f"link del {self.name}")

    def down(self) -> None:
        self.space.ip("link set eth0 down")

    def up(self) -> None:
        self.space.ip("link set eth0 up")

    def mute(self) -> None:
        """Nothing that it sends leaves it: a blackhole. What is sent to it arrives."""
        self.space.ip(f"route add blackhole {self._lan.address}/32")

    def speak(self) -> None:
        self.space.ip(f"route del blackhole {self._lan.address}/32")

    def deafen(self) -> None:
        """Nothing of ours reaches it: it goes to an Ethernet address that nobody has. What it sends arrives."""
        ip(f"neigh replace {self.address} lladdr {_NOBODY} dev {self._lan.cable} nud permanent")

    def hear(self) -> None:
        ip(f"neigh del {self.address} dev {self._lan.cable}")

    def slow(self, rate: str = "1mbit") -> None:
        """Both ways so much at most, and what waits for longer than 0.4 s is lost."""
        for space, device in ((self.space, "eth0"), (self._lan.switch, self.name)):
            space.tc(f"qdisc add dev {device} root tbf rate {rate} burst 16kb latency 400ms")

    def fast(self) -> None:
        for space, device in ((self.space, "eth0"), (self._lan.switch, self.name)):
            space.tc(f"qdisc del dev {device} root")

    def start_agent(self, box: Instance, ranks: int) -> None:
        with named(self.name):
            self.space.call(lambda: box.start_agent(ranks, joined=False))


class Lan:
    """A switch, this computer at it, and hosts.

    Attributes
    ----------
    address : str
        This computer, as the hosts see it.
    """

    def __init__(self) -> None:
        net = free_network()
        self.address = f"{net}.1"
        self.cable = f"pyfi{secrets.token_hex(3)}"
        self.switch = Space()
        self.hosts: dict[str, Host] = {}
        self._net = net
        self.switch.ip("link add br0 type bridge")
        self.switch.ip("link set br0 up")
        ip(f"link add {self.cable} type veth peer name above netns {self.switch.pid}")
        ip(f"addr add {self.address}/24 dev {self.cable}")
        ip(f"link set {self.cable} up")
        self.switch.ip("link set above master br0 up")

    def add(self, name: str) -> Host:
        host = self.hosts[name] = Host(self, name, f"{self._net}.{len(self.hosts) + 11}")
        return host

    def name_of(self, inode: int) -> str:
        """The host whose network has this inode; empty: this computer."""
        return next((host.name for host in self.hosts.values() if host.space.inode == inode), "")

    def close(self) -> None:
        for host in self.hosts.values():
            host.space.close()
        self.switch.close()
        deadline = time.monotonic() + 10
        while Path("/sys/class/net", self.cable).exists():  # the kernel takes it away a moment later
            assert time.monotonic() < deadline, f"{self.cable} stays"
            time.sleep(0.02)


@contextmanager
def named(name: str) -> Iterator[None]:
    """What is started inside takes this for its node's name."""
    before = os.environ.get("SLURMD_NODENAME")
    os.environ["SLURMD_NODENAME"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["SLURMD_NODENAME"]
        else:
            os.environ["SLURMD_NODENAME"] = before
