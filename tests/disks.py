"""Small disks that can be filled or frozen, for tests; they need root and are skipped where that is not enough."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int, files: int = 0) -> Iterator[Path]:
    """A file system in memory at this folder, which must exist; what was in it is moved there, and back again."""
    mounted = tempfile.mkdtemp(prefix="pyfi-d-")
    options = f"size={megabytes}m,mode=700,nr_inodes={files}"  # 0: as many files as one likes
    done = _run("mount", "-t", "tmpfs", "-o", options, "pyfi-test", mounted)
    if done.returncode:
        os.rmdir(mounted)
        pytest.skip(f"a file system of its own is needed, and cannot be mounted here: {done.stderr.strip()}")
    try:
        _move(folder, Path(mounted))
        _must("mount", "--bind", mounted, str(folder))
        try:
            yield folder
        finally:
            _must("umount", str(folder))
            _move(Path(mounted), folder)
    finally:
        _must("umount", mounted)
        os.rmdir(mounted)


def _move(source: Path, target: Path) -> None:
    _must("cp", "-a", f"{source}/.", str(target))
    for entry in source.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def fill(folder: Path) -> Path:
    """Write until nothing more fits; the file to delete for space."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return ballast


def fill_with_files(folder: Path) -> Path:
    """Make empty files until there can be no more; the folder to remove for room."""
    ballast = folder / "files"
    ballast.mkdir()
    with suppress(OSError):
        for number in itertools.count():
            (ballast / str(number)).touch()
    return ballast


class FreezingDisk:
    """A real file system on a file, that can be made to hang: who writes to it then waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def frozen(self, limit_s: float = 60.0) -> Iterator[None]:
        """Writes hang inside; a timer thaws it in any case, or the tests could not even end."""
        _must("fsfreeze", "--freeze", str(self.folder))
        timer = threading.Timer(limit_s, self._thaw)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._thaw()

    def _thaw(self) -> None:
        _run("fsfreeze", "--unfreeze", str(self.folder))


@contextmanager
def freezing_disk(megabytes: int = 256) -> Iterator[FreezingDisk]:
    """A mounted one, with an empty folder that is ours alone; skips where that is not possible."""
    lacks = [name for name in ("mkfs.ext4", "fsfreeze", "mount") if not shutil.which(name)]
    if lacks or os.getuid():
        pytest.skip("a disk that hangs needs root and " + ", ".join(lacks or ["nothing else"]))
    with tempfile.TemporaryDirectory(prefix="pyfi-d-", dir="/tmp") as folder:
        image, mounted = Path(folder) / "image", Path(folder) / "m"
        mounted.mkdir(mode=0o700)
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        _must("mkfs.ext4", "-q", str(image))
        done = _run("mount", "-o", "loop", str(image), str(mounted))
        if done.returncode:
            pytest.skip(f"a loop device is needed: {done.stderr.strip()}")
        try:
            os.chmod(mounted, 0o700)
            yield FreezingDisk(mounted)
        finally:
            _must("umount", str(mounted))


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def _must(*words: str) -> None:
    done = _run(*words)
    assert not done.returncode, f"{' '.join(words)}: {done.stderr.strip()}"
