"""Virtual environments for deployed code: built once per key, shared by everything with the same key.

The key of an environment that only lists requirements is a hash of that list, so commits and repositories
with the same requirements share it. Where the project itself is installed, or the list points to other files
of the checkout, the tree's id is part of the key. ::

    cache/envs/KEY/                  the environment
    cache/envs/KEY/pyfi-env.json     written last: without it the folder is half built and is thrown away

It is built under its final name, not renamed into place: the scripts of an environment carry its absolute
path in their first line. The marker and a lock give what the rename would have given.

Byte code is not compiled ahead (that takes 3 s for scikit-learn on one core, mostly for modules that nobody
imports): the look into the module that follows each first deployment imports what the ranks will import.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pyfi_hpc.adapters import command, pip_config
from pyfi_hpc.adapters.filelock import hold
from pyfi_hpc.errors import EnvironmentFailed

#: raise it when environments are built in another way: all keys change
FORMAT = 1
INSTALL_S = 1800.0
MARKER = "pyfi-env.json"
_QUICK_S = 60.0
_TAIL_LINES = 15
_DROPPED = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"}
_NEEDS_FILES = re.compile(
    r"^\s*(-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links)\b"
    r"|(^|@\s*)(file:|\.{1,2}(/|$)|/)|^[\w.-]+/",
    re.M,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into an environment. ``kind`` is ``requirements``, ``project`` or ``empty``."""

    kind: str
    key: str
    #: requirements.txt, or the folder of the project
    source: Path


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete environment."""

    key: str
    folder: Path
    #: seconds the building took, 0 when it was there
    build_s: float

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"


def read_recipe(checkout: Path, tree: str) -> Recipe:
    """How the environment of a checkout is built: requirements.txt, else pyproject.toml, else setup.py.

    Parameters
    ----------
    tree : str
        Id of the checkout's tree.
    """
    requirements = checkout / "requirements.txt"
    if requirements.is_file():
        text = "\n".join(line.rstrip() for line in requirements.read_text("utf-8", "replace").splitlines())
        needs_files = _NEEDS_FILES.search(text)
        return Recipe("requirements", _key("requirements", text, tree if needs_files else ""), requirements)
    if (checkout / "setup.py").is_file() or _is_project(checkout / "pyproject.toml"):
        return Recipe("project", _key("project", "", tree), checkout)
    return Recipe("empty", _key("requirements", "", ""), checkout)


def ensure(cache_dir: Path, recipe: Recipe, progress: Callable[[str], None]) -> Environment:
    """The environment of a recipe, built if it is not there or does not run any more.

    Raises
    ------
    EnvironmentFailed
        The installer failed; its last lines are shown and nothing of the environment stays.
    TransientError
        Another process has been building it for longer than an installation may take.
    """
    envs = cache_dir / "envs"
    envs.mkdir(mode=0o700, parents=True, exist_ok=True)
    ready = Environment(recipe.key, envs / recipe.key, 0.0)
    if not verify(ready):
        return ready
    with hold(envs / f".{recipe.key}.lock", timeout_s=INSTALL_S, what="this environment", progress=progress):
        wrong = verify(ready)
        if not wrong:
            return ready
        if ready.folder.exists():
            progress(f"building the environment again: {wrong}")
            shutil.rmtree(ready.folder)
        started = time.monotonic()
        try:
            _build(ready, recipe, progress)
        except BaseException:
            shutil.rmtree(ready.folder, ignore_errors=True)
            raise
        build_s = time.monotonic() - started
        about = {"format": FORMAT, "python": platform.python_version(), "build_s": round(build_s, 3)}
        (ready.folder / MARKER).write_text(json.dumps(about) + "\n")
        return Environment(recipe.key, ready.folder, build_s)


def verify(environment: Environment) -> str:
    """What is wrong with an environment, "" when it is complete and its python starts (about 20 ms)."""
    if not (environment.folder / MARKER).is_file():
        return "it is not there" if not environment.folder.exists() else "it was not finished"
    script = "import sys, msgspec; sys.stdout.write(msgspec.__version__)"
    try:
        argv = [str(environment.python), "-I", "-c", script]
        done = command.run(argv, env={"PATH": os.defpath, "LC_ALL": "C"}, timeout_s=_QUICK_S)
    except OSError as error:
        return f"its python cannot be started ({error.strerror})"
    if not done.fine:
        return f"its python fails: {done.last_lines(1)}"
    return "" if done.text == msgspec.__version__ else f"it has msgspec {done.text}"


def find_uv() -> str | None:
    """The uv program beside our python or on PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _build(environment: Environment, recipe: Recipe, progress: Callable[[str], None]) -> None:
    # Debian's and conda's python read these; an environment must be what its recipe says and no more.
    env = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    uv = find_uv()
    python = str(environment.python)
    if uv is not None:
        env |= pip_config.for_uv(env) | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        make = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(environment.folder)]
        install = [uv, "pip", "install", "--python", python]
    else:
        env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        make = [sys.executable, "-m", "venv", str(environment.folder)]
        install = [python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    progress(f"building the environment with {'uv' if uv else 'venv and pip'}")
    _run(make, env, Path("/"), recipe, "making the environment", _QUICK_S)
    with tempfile.TemporaryDirectory(dir=environment.folder, prefix="build-") as folder:
        # installers leave locks in the folder for temporary files: this one goes with them
        _install(install, env | {"TMPDIR": folder}, Path(folder), recipe)


def _install(install: list[str], env: dict[str, str], folder: Path, recipe: Recipe) -> None:
    runner_needs = f"msgspec=={msgspec.__version__}"
    if recipe.kind == "requirements":
        argv = [*install, runner_needs, "-r", str(recipe.source)]
        _run(argv, env, recipe.source.parent, recipe, "installing", INSTALL_S)
    elif recipe.kind == "empty":
        _run([*install, runner_needs], env, Path("/"), recipe, "installing", INSTALL_S)
    else:
        # Builders write into the project's folder; the checkout must stay as committed.
        copy = folder / recipe.source.name
        shutil.copytree(recipe.source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        _run([*install, runner_needs, str(copy)], env, copy, recipe, "installing", INSTALL_S)


def _run(
    argv: list[str], env: dict[str, str], cwd: Path, recipe: Recipe, what: str, timeout_s: float
) -> None:
    done = command.run(argv, env=env, cwd=cwd, timeout_s=timeout_s, merge=True)
    if done.fine:
        return
    why = f"not finished in {timeout_s:.0f} s" if done.timed_out else f"exit status {done.code}"
    lines = "\n".join("    " + line for line in done.last_lines(_TAIL_LINES).splitlines())
    # An index's address may carry a password.
    lines = re.sub(r"(https?://)[^/@\s]+@", r"\1***@", lines)
    name = recipe.source.name if recipe.kind == "requirements" else "the project"
    raise EnvironmentFailed(
        f"{what} failed ({why}); the installer's last lines:\n{lines}",
        where=f"{name} with {Path(argv[0]).name}",
        fix="correct it, commit, and deploy again; nothing was registered",
    )  # fmt: skip


def _key(kind: str, text: str, tree: str) -> str:
    parts = (
        str(FORMAT), kind, text, tree, msgspec.__version__, platform.python_version(),
        str(sysconfig.get_config_var("SOABI")), sysconfig.get_platform(), "-".join(platform.libc_ver()),
    )  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _is_project(file: Path) -> bool:
    """A pyproject.toml that only configures tools is nothing to install."""
    try:
        return bool({"project", "build-system"} & tomllib.loads(file.read_text("utf-8")).keys())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise EnvironmentFailed(f"pyproject.toml cannot be read: {error}", where=str(file)) from error
