"""Faults of the machine: system calls that fail or take long, processor time and process numbers that run out.

Each is a context: what it changed is put back. Each skips with a reason where this machine cannot do it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from instance_fixture import until

_CGROUP = Path("/sys/fs/cgroup")
_SYNCS = "fdatasync,fsync"


@contextmanager
def strace(pids: Iterable[int], what: str, calls: str = _SYNCS, also_children: bool = True) -> Iterator[Path]:
    """System calls of processes fail, ``error=EIO:when=1+``, or take long, ``delay_enter=100000``; the trace."""
    if not shutil.which("strace"):
        pytest.skip("faults of disks are injected by strace, which is not installed")
    with tempfile.TemporaryDirectory(prefix="strace-") as folder:
        trace, said = Path(folder) / "trace", Path(folder) / "said"
        command = ["strace", *["-f"] * also_children, "-o", str(trace), "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:{what}", *(f"--attach={pid}" for pid in pids)]
        with open(said, "wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            count = len([word for word in command if word.startswith("--attach")])
            while said.read_text(errors="replace").count("attached") < count:
                if process.poll() is not None:
                    pytest.skip(f"ptrace is not possible here: {said.read_text()[:200]}")
                time.sleep(0.01)
            yield trace
        finally:
            process.terminate()  # it lets its processes go
            process.wait(10)


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@contextmanager
def starved(pids: Iterable[int], share: float) -> Iterator[Path]:
    """Processes that get so much of one core together; the file that counts how often they had to wait."""
    quota = int(share * 100_000)
    with _group("cpu") as (group, is_v2):
        if is_v2:
            (group / "cpu.max").write_text(f"{quota} 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        _enter(group, pids)
        yield group / "cpu.stat"


@contextmanager
def little_memory(size: int) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """What is started inside the given context may take so many bytes together; then the kernel kills one of it."""
    with _group("memory") as (group, is_v2):
        (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(size))

        @contextmanager
        def inside() -> Iterator[None]:
            _enter(group, [os.getpid()])
            try:
                yield
            finally:
                _enter(group.parent, [os.getpid()])

        yield inside


@contextmanager
def no_more_pids(pids: Iterable[int]) -> Iterator[Path]:
    """Processes that can start no other one, nor a thread; the file that counts their refusals."""
    with _group("pids") as (group, _):
        _enter(group, pids)
        (group / "pids.max").write_text("1")
        yield group / "pids.events"


def _enter(group: Path, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))


@contextmanager
def _group(controller: str) -> Iterator[tuple[Path, bool]]:
    """A new control group for this controller; its processes go back to where they came from, their parent group."""
    is_v2 = (_CGROUP / "cgroup.controllers").exists()
    parent = _CGROUP if is_v2 else _CGROUP / controller
    group = parent / f"pyfi-test-{os.getpid()}"
    try:
        if is_v2:
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        elif not (parent / "cgroup.procs").exists():
            raise OSError("there is no such hierarchy")
        group.mkdir()
    except OSError as error:
        pytest.skip(f"the control group controller {controller!r} is needed, as root: {error}")
    try:
        yield group, is_v2
    finally:
        _enter(parent, [int(pid) for pid in (group / "cgroup.procs").read_text().split()])
        until(lambda: _removed(group), 10.0, f"{group} is removed")


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()
