"""A wheel of the package that runs here, so that another host gets the very same one.

From a checkout it is built; from an installation it is put together again from the files that its RECORD lists. It
is kept in the cache by the hash of the package, so it is made once.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyfi_hpc
from pyfi_hpc._version import __version__
from pyfi_hpc.adapters import command, environment, pip_config
from pyfi_hpc.adapters.on_node.install import hash_of
from pyfi_hpc.errors import SiteError

_BUILD_S = 300.0
#: files of a dist-info that tell of one installation
_OF_INSTALLATION = {"INSTALLER", "REQUESTED", "direct_url.json", "RECORD", "uv_cache.json"}


@dataclass(frozen=True, slots=True)
class Wheel:
    file: Path
    version: str
    hash: str


def package_hash() -> str:
    return hash_of(str(_package()))


def make(cache_dir: Path) -> Wheel:
    """The wheel of this package.

    Raises
    ------
    SiteError
        It cannot be built; the last words of the builder.
    """
    digest = package_hash()
    folder = cache_dir / "wheels" / digest
    found = sorted(folder.glob("*.whl"))
    if not found:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as made:
            source = _package().parent
            if _is_checkout(source):
                _build(source, Path(made))
            else:
                _repack(Path(made))
            folder.mkdir(mode=0o700, exist_ok=True)
            for wheel in Path(made).glob("*.whl"):
                os.replace(wheel, folder / wheel.name)
        found = sorted(folder.glob("*.whl"))
    return Wheel(found[0], __version__, digest)


def _package() -> Path:
    return Path(pyfi_hpc.__path__[0]).resolve()


def _is_checkout(source: Path) -> bool:
    try:
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(project.get("name") == "pyfi_hpc")


def _build(source: Path, into: Path) -> None:
    """Of a copy: builders write into the folder of the project."""
    copy = into / "source"
    copy.mkdir()
    shutil.copytree(source / "pyfi_hpc", copy / "pyfi_hpc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (source / name).is_file():
            shutil.copy(source / name, copy / name)
    uv = environment.find_uv()
    env = {**os.environ, **(pip_config.for_uv(os.environ) if uv else {}), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env.pop("PYTHONPATH", None)
    if uv:
        argv = [uv, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", str(into), str(copy)]
    else:
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(copy)]
    done = command.run(argv, env=env, timeout_s=_BUILD_S, cwd=copy, merge=True)
    if not done.fine or not list(into.glob("*.whl")):
        why = f"no end within {_BUILD_S:.0f} s" if done.timed_out else done.last_lines(8)
        raise SiteError(
            f"no wheel of this package could be built: {why}", where=str(source),
            fix="it needs setuptools from your package index; or install pyfi_hpc instead of running a checkout",
        )  # fmt: skip


def _repack(into: Path) -> None:
    found = importlib.metadata.distribution("pyfi_hpc")
    files = [file for file in found.files or () if not _is_left_out(file)]
    info = next((file.parts[0] for file in files if file.parts[0].endswith(".dist-info")), "")
    if not info or not any(file.parts[0] == "pyfi_hpc" for file in files):
        raise SiteError(
            "this installation does not list its files", where=str(_package()), fix="install it again with pip or uv"
        )
    record = []
    target = into / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            data = Path(str(file.locate())).read_bytes()
            archive.writestr(file.as_posix(), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record.append(f"{file.as_posix()},sha256={digest},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))


def _is_left_out(file: importlib.metadata.PackagePath) -> bool:
    top = file.parts[0]
    if top == "pyfi_hpc":
        return "__pycache__" in file.parts
    return not top.endswith(".dist-info") or file.name in _OF_INSTALLATION
