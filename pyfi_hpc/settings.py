"""Settings: read once at the edge, then handed down as values.

Precedence: default < file (``HOME/config.toml``) < environment (``PYFI_...``) < flag. Only this file reads
the environment (``adapters/slurm.py`` reads SLURM_*). The environment name follows from the field name:
``ledger`` is ``PYFI_LEDGER``. Folders::

    home/                    ~/.local/state/pyfi          0700, seen from login and compute nodes
      config.toml            settings of this user
      INSTANCE/              access.json (0600: address and keys), logs/, pids/, ledger/
      cache/                 mirrors/ (bare git), code/ (checkouts), envs/ (virtual environments)
    scratch/pyfi-UID/        node-local, 0700: unix sockets and whatever lives no longer than a process
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pyfi_hpc.errors import SettingsError

_INSTANCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _default_home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "pyfi"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a process needs to know before it starts.

    Every field can be given in ``config.toml``, as ``PYFI_<FIELD>`` or by a flag.
    """

    #: name of the instance
    instance: str = "default"
    #: folder of all state of this user
    home: Path = field(default_factory=_default_home)
    #: node-local folder for sockets and temporary files
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    #: URL of the ledger's Postgres; empty means the embedded one
    ledger: str = ""
    #: folder of the PostgreSQL programs; empty means look for them
    pg_bin: str = ""
    #: address that the broker listens on; empty means loopback, or this host's name when ranks are elsewhere
    bind: str = ""
    #: whose share of the ranks calls use that name no project; empty: that of all who name none
    project: str = ""
    #: seconds a client waits for the broker before it says so
    timeout_s: float = 20.0
    #: repositories that may be deployed: patterns such as ``https://git.example.org/group/*``
    allow: tuple[str, ...] = ()
    #: repositories that may not, whatever ``allow`` says
    deny: tuple[str, ...] = ()
    #: retry budgets that differ from the defaults: ``crash=5``, ``environment=1``, ``node_fail=free``
    budgets: tuple[str, ...] = ()
    #: what nodes have besides cores, memory and GPUs, so many on each: ``license:2``, ``tape:1``
    resources: tuple[str, ...] = ()
    #: what nodes are, besides their name, system and processor: ``bigmem``
    labels: tuple[str, ...] = ()
    #: GPUs of a node, as CUDA_VISIBLE_DEVICES names them; empty: what Slurm gives or the driver tells; "none"
    gpus: tuple[str, ...] = ()
    #: between two questions to a batch system about elastic allocations, seconds
    batch_interval_s: float = 10.0
    #: log level of the daemons
    log_level: str = "INFO"
    #: where each value came from, for ``pyfi info --settings``
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def instance_dir(self) -> Path:
        return self.home / self.instance

    @property
    def access_file(self) -> Path:
        return self.instance_dir / "access.json"

    @property
    def log_dir(self) -> Path:
        return self.instance_dir / "logs"

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @property
    def run_dir(self) -> Path:
        """Node-local folder of this instance: short, because a unix socket's path ends near 107 bytes."""
        tag = hashlib.sha256(str(self.instance_dir).encode()).hexdigest()[:10]
        return self.scratch / f"pyfi-{os.getuid()}" / tag


def load(**flags: Any) -> Settings:
    """Build the settings of this process.

    Parameters
    ----------
    **flags
        Values from the command line by field name; None means not given.

    Raises
    ------
    SettingsError
        An unknown name in the file, a value of the wrong kind, or an instance name that is not a plain name.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def take(name: str, raw: Any, source: str) -> None:
        values[name] = _convert(name, raw, source)
        origin[name] = source

    home = flags.get("home") or os.environ.get("PYFI_HOME") or _default_home()
    file = Path(home) / "config.toml"
    for name, raw in _read_file(file).items():
        take(name, raw, str(file))
    for name in _NAMES:
        variable = "PYFI_" + name.upper()
        if os.environ.get(variable):
            take(name, os.environ[variable], variable)
    for name, raw in flags.items():
        if raw is not None:
            take(name, raw, "flag")
    settings = replace(Settings(), **values, origin=origin)
    if not _INSTANCE_NAME.fullmatch(settings.instance):
        raise SettingsError(
            f"the instance's name {settings.instance!r} is not a plain name",
            where=origin.get("instance", "default"), fix="use letters, digits, dot, dash and underscore",
        )  # fmt: skip
    return settings


def private_folder(path: Path) -> Path:
    """Make ``path`` and what is above it; the folder is 0700 and ours, or an error says whose it is.

    Raises
    ------
    SettingsError
        The path is a link, not a folder, or somebody else's: on a shared machine that may be a trap.
    """
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise SettingsError(
            f"{path} is not a private folder of this user", where=f"owner uid {info.st_uid}",
            fix="remove it, or set PYFI_SCRATCH or PYFI_HOME to a folder of your own",
        )  # fmt: skip
    if info.st_mode & 0o077:
        os.chmod(path, 0o700)
    return path


_NAMES = tuple(f.name for f in fields(Settings) if f.name != "origin")
_PATHS = {"home", "scratch"}
_LISTS = {"allow", "deny", "budgets", "resources", "labels", "gpus"}
_FLOATS = {"timeout_s", "batch_interval_s"}


def _read_file(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the settings: {error}", where=str(file)) from error
    for name in values:
        if name not in _NAMES:
            raise SettingsError(
                f"unknown setting {name!r}", where=str(file), fix="the settings are: " + ", ".join(_NAMES)
            )
    return values


def _convert(name: str, raw: Any, source: str) -> Any:
    try:
        if name in _PATHS:
            return Path(raw).expanduser().absolute()
        if name in _LISTS:
            items = raw.split(",") if isinstance(raw, str) else raw
            return tuple(str(item).strip() for item in items if str(item).strip())
        if name in _FLOATS:
            return float(raw)
        return str(raw)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the setting {name} cannot be {raw!r}", where=source) from error
