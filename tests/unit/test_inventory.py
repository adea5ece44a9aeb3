"""Which GPUs a node says it has: what Slurm gave, what the driver knows, and who wins. No real driver is needed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.adapters import inventory
from pyfi_hpc.settings import Settings, load


class Driver:
    """Stands for NVML: a node of so many GPUs, as it is seen where no control groups hide any."""

    def __init__(self, count: int, broken: str = "") -> None:
        self.count, self.broken, self.calls = count, broken, list[str]()

    def __getattr__(self, name: str) -> Callable[[], Any]:
        def call() -> Any:
            self.calls.append(name)
            if name == self.broken:
                raise RuntimeError("GPU is lost")
            return self.count if name == "nvmlDeviceGetCount" else None

        return call


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """No word of Slurm, and no driver."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", _absent)
    return load(home=tmp_path / "home")


def _absent(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def driver(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Driver]:
    def put(count: int, broken: str = "") -> Driver:
        made = Driver(count, broken)
        monkeypatch.setattr(ctypes, "CDLL", str)
        monkeypatch.setitem(sys.modules, "pynvml", made)
        return made

    return put


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A fake ``sinfo`` that runs this text and notes what it was asked."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def put(text: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "sinfo").write_text(f'#!/bin/bash\necho "$@" >>"${{0%/*}}/asked"\n{text}\n')
        (tmp_path / "bin" / "sinfo").chmod(0o755)

    return put


def gpus(settings: Settings) -> tuple[str, ...]:
    return inventory.look(settings, 2).gpus


def test_no_driver_costs_no_import(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver's library is not there, ours is not even imported, and there is no GPU and no label."""
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would raise
    found = inventory.look(settings, 2)
    assert (found.gpus, "gpu" in found.labels) == ((), False)


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlShutdown"])
def test_a_broken_driver_is_none(settings: Settings, driver: Callable[..., Driver], broken: str) -> None:
    driver(8, broken)
    assert gpus(settings) == ()


def test_outside_of_slurm_the_driver_is_asked(settings: Settings, driver: Callable[..., Driver]) -> None:
    nvml = driver(2)
    assert gpus(settings) == ("0", "1")
    assert nvml.calls == ["nvmlInit", "nvmlDeviceGetCount", "nvmlShutdown"]
    assert "gpu" in inventory.look(settings, 2).labels


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("5", ("5",)), ("0,1", ("0", "1")), ("GPU-8932, GPU-1f2c", ("GPU-8932", "GPU-1f2c")), ("2,2", ("2",)),
        ("", ()), ("NoDevFiles", ()), ("-1", ()), ("0,-1,1", ("0",)),
    ],
)  # fmt: skip
def test_what_slurm_gave_counts_and_the_driver_is_not_asked(
    settings: Settings, driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, visible: str,
    names: tuple[str, ...],
) -> None:  # fmt: skip
    """One of eight, by its number on the node or renumbered by control groups: that name, whatever NVML sees."""
    nvml = driver(8)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1,2,3")  # of the first node: no list for this one
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(settings) == names
    assert nvml.calls == []


@pytest.mark.parametrize(
    ("answer", "count"),
    [("echo gpu:a100:8", 0), ("echo '(null)'", 8), ("echo 'Unable to contact slurm controller' >&2; exit 1", 0)],
)
def test_slurm_gave_none(
    settings: Settings, driver: Callable[..., Driver], sinfo: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, answer: str, count: int,
) -> None:  # fmt: skip
    """An allocation without GPUs: the driver's eight are other people's, unless Slurm does not give out GPUs here."""
    driver(8)
    sinfo(answer)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    assert len(gpus(settings)) == count
    assert (tmp_path / "bin" / "asked").read_text() == "--noheader --nodes=n3 --format=%G\n"


def test_the_whole_node_without_a_word_of_gpus(
    settings: Settings, driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--exclusive`` alone: the job has all GPUs, but its steps are told of none; the driver knows."""
    driver(4)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1,2,3")
    monkeypatch.setenv("PATH", "/nowhere")  # nobody is asked
    assert gpus(settings) == ("0", "1", "2", "3")


def test_the_setting_wins(settings: Settings, driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over Slurm: a person may keep some for themselves."""
    driver(8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert gpus(load(home=settings.home, gpus=("1",))) == ("1",)
    assert gpus(load(home=settings.home, gpus=("none",))) == ()
