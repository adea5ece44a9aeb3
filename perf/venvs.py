"""Virtual environments of the peers and of the report, outside of the repository; made once, kept.

They lie in ``~/.cache/pyfi-perf-peers`` (``PYFI_PERF_CACHE`` names another folder). What cannot be installed is an
``InstallFailed`` with the installer's last words.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pyfi_hpc.adapters import environment, pip_config

_INSTALL_S = 900.0


class InstallFailed(Exception):
    """In the installer's words."""


def ensure(name: str, requirements: Path) -> Path:
    """The python of an environment with these requirements."""
    text = f"{sys.version}\n{requirements.read_text()}"
    folder = _cache() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    print(f"installing {name}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    uv = environment.find_uv()
    try:
        if uv:
            _run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder))
            _run(uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements))
        else:
            _run(sys.executable, "-m", "venv", str(folder))
            _run(str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ready.touch()
    return python


def _cache() -> Path:
    given = os.environ.get("PYFI_PERF_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyfi-perf-peers"
    base.mkdir(parents=True, exist_ok=True)
    return base


def _run(*words: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= pip_config.for_uv(env) | {"UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(str(error)) from error
    if done.returncode:
        last = [line.strip() for line in done.stdout.splitlines() if line.strip()][-3:]
        raise InstallFailed(" ".join(last) or f"{words[0]} ended with {done.returncode}")
