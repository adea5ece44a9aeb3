"""Repositories to deploy, and what a deployment can be asked."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.model.deployment import DeploymentSpec
from pyfi_hpc.settings import Settings

SHAPES = "pyfi-test-shapes"


class Repository:
    """A git repository to write to; ``git`` runs with an identity and no configuration of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *args: str) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        env |= {
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
        }  # fmt: skip
        argv = ["git", "-c", "protocol.file.allow=always", *args]
        done = subprocess.run(argv, cwd=self.path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, files: Mapping[str, str]) -> Repository:
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self

    def commit(self, files: Mapping[str, str] | None = None) -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", scratch=tmp_path)


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "work" / "calc")


@pytest.fixture(name="links")
def _links(tmp_path: Path) -> Path:
    """A folder with versions 1 and 2 of a small pure Python package, as wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        about = f"pyfi_test_shapes-{version}.dist-info"
        with zipfile.ZipFile(folder / f"pyfi_test_shapes-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pyfi_test_shapes.py", f"VERSION = {version!r}\n")
            wheel.writestr(
                f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {SHAPES}\nVersion: {version}\n"
            )
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    return folder


def call(spec: DeploymentSpec, function: str, *args: Any) -> Any:
    """Call a function the way a runner does: the environment's python, isolated, the workdir first."""
    script = (
        "import sys, json, importlib; sys.path.insert(0, sys.argv[1]); import msgspec;"
        "m = importlib.import_module(sys.argv[2]);"
        "print(json.dumps(getattr(m, sys.argv[3])(*json.loads(sys.argv[4]))))"
    )
    argv = [
        spec.code.python,
        "-I",
        "-c",
        script,
        spec.code.workdir,
        spec.code.module,
        function,
        json.dumps(args),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def left_over(settings: Settings) -> list[str]:
    """Environments and unfinished checkouts in the cache."""
    cache = settings.cache_dir
    return [p.name for p in cache.glob("envs/*") if p.is_dir()] + [p.name for p in cache.glob("code/.new-*")]
