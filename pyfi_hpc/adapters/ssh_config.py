"""What ``~/.ssh/config`` says of a host: address, user, port, key files, known_hosts files, the hosts in between."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from pyfi_hpc.adapters.known_hosts import name_of
from pyfi_hpc.adapters.ssh_target import CONNECT_S, Login, split
from pyfi_hpc.errors import SettingsError

_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
#: hosts between us and the last one; more is a circle
_HOPS_MAX = 8
#: of includes that name includes
_DEPTH_MAX = 16


@dataclass(frozen=True, slots=True)
class Place:
    """One host on the way, as it is reached."""

    name: str
    address: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only_identities: bool
    known_hosts: tuple[Path, ...]
    #: what its key is filed under
    key_name: str
    jump: str
    #: seconds until a connection to it is given up
    connect_s: float


def places(login: Login) -> list[Place]:
    """The hosts that a connection passes, the last one is the goal.

    Raises
    ------
    SettingsError
        The configuration cannot be read, or goes in a circle, or wants a program in between.
    """
    config = _read(Path.home() / ".ssh" / "config")
    goal = _place(config, login)
    jump = login.jump or goal.jump
    found = [goal]
    while jump and jump.lower() != "none":
        if len(found) > _HOPS_MAX:
            raise SettingsError(f"over {_HOPS_MAX} hosts on the way to {login.host}", where=jump, fix="see ProxyJump")
        # a list is passed from left to right; only its first host may itself lie behind others
        *before, last = jump.split(",")
        user, host, port = split(last.strip().removeprefix("ssh://"))
        place = _place(config, Login(host, user, port))
        found.insert(0, place)
        jump = ",".join(before) or place.jump
    return found


def _place(config: paramiko.SSHConfig, login: Login) -> Place:
    try:
        said: dict[str, Any] = dict(config.lookup(login.host))
    except (paramiko.ConfigParseError, ImportError, OSError) as error:
        raise SettingsError(
            f"the configuration of ssh cannot be used: {error}", where="~/.ssh/config", fix="--via ssh uses ssh itself"
        ) from None
    if said.get("proxycommand", "none").lower() != "none":
        raise SettingsError(
            f"{login.host} is reached by a program (ProxyCommand)", where="~/.ssh/config",
            fix="--via ssh uses ssh itself; or say ProxyJump",
        )  # fmt: skip
    address = str(said.get("hostname", login.host))
    port = login.port or int(said.get("port", 22))
    ssh = Path.home() / ".ssh"
    given = [login.identity] if login.identity else [str(file) for file in said.get("identityfile", ())]
    identities = [Path(file).expanduser() for file in given] or [ssh / name for name in _KEYS]
    users = said.get("userknownhostsfile", "").split() or [str(ssh / "known_hosts"), str(ssh / "known_hosts2")]
    system = said.get("globalknownhostsfile", "").split() or ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
    return Place(
        login.host, address, port, login.user or str(said.get("user", "")) or getpass.getuser(), tuple(identities),
        bool(login.identity) or said.get("identitiesonly", "no").lower() == "yes",
        tuple(Path(file.strip('"')).expanduser() for file in [*users, *system]),
        str(said["hostkeyalias"]) if "hostkeyalias" in said else name_of(address.lower(), port),
        str(said.get("proxyjump", "")),
        _seconds(said.get("connecttimeout", "")),
    )  # fmt: skip


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() and int(text) > 0 else CONNECT_S


def _read(file: Path) -> paramiko.SSHConfig:
    try:
        return paramiko.SSHConfig.from_text("\n".join(_lines(file, 0)))
    except (paramiko.ConfigParseError, OSError, ValueError) as error:
        raise SettingsError(f"cannot read the configuration of ssh: {error}", where=str(file)) from None


def _lines(file: Path, depth: int) -> list[str]:
    """The lines of a configuration with those of the files that it includes, which paramiko leaves out.

    Only includes before the first ``Host``: elsewhere they hold for some hosts only.
    """
    if not file.is_file() or depth > _DEPTH_MAX:
        return []
    found: list[str] = []
    in_block = False
    for line in file.read_text().splitlines():
        words = line.replace("=", " ", 1).split()
        word = words[0].lower() if words else ""
        in_block = in_block or word in ("host", "match")
        if word != "include":
            found.append(line)
        elif in_block:
            raise SettingsError(
                "Include behind a Host line is not understood", where=f"{file}: {line.strip()}",
                fix="put it before the first Host, or say --via ssh",
            )  # fmt: skip
        else:
            for pattern in words[1:]:
                base = Path(pattern).expanduser()
                root = base if base.is_absolute() else file.parent / pattern
                for other in sorted(root.parent.glob(root.name)):
                    found += [*_lines(other, depth + 1), "Host *"]
    return found
