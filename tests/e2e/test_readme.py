"""The README's commands, run as a reader runs them, so that the page stays true.

A ``console`` block holds commands after ``$`` and some of the lines that they print. A printed line must be among
the output, in order; it may go on there. In a line with words any number stands for any other.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyfi_command import ROOT
from slurm_cluster import Cluster
from slurm_site import Site

from pyfi_hpc import settings as settings_module
from pyfi_hpc.hosts import instance
from pyfi_hpc.ledger import embedded

_MARK = "=-=-="
#: a command and the lines that it should print
Command = tuple[str, list[str]]


def blocks(kind: str, section: str = "") -> list[str]:
    """The fenced blocks of a kind in the README, or in one of its sections."""
    text = (ROOT / "README.md").read_text()
    if section:
        text = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
        assert text, f"the README has no section {section!r}"
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


def commands(section: str) -> list[Command]:
    found: list[Command] = []
    for line in "".join(blocks("console", section)).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def play(wanted: list[Command], folder: Path, environment: dict[str, str], limit_s: float) -> list[str]:
    """Run commands in one shell; each must end well and print its lines. What each printed."""
    script = "".join(f"{command}\necho '{_MARK}' $?\n" for command, _ in wanted)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
    )  # fmt: skip
    *outputs, rest = re.split(rf"^{_MARK} (?=\d+$)", done.stdout, flags=re.M)
    assert len(outputs) == len(wanted), done.stdout
    codes = [text.partition("\n")[0] for text in (*outputs[1:], rest)]
    for (command, lines), said, code in zip(wanted, outputs, codes, strict=True):
        assert code == "0", f"$ {command}\n{said}"
        check_printed(command, lines, said)
    return outputs


def check_printed(command: str, lines: list[str], said: str) -> None:
    at = 0
    for line in lines:
        found = re.compile(pattern(line), re.M).search(said, at)
        assert found, f"$ {command}\nshould print {line!r} but says\n{said}"
        at = found.end()


def pattern(line: str) -> str:
    """A printed line as a regular expression for the beginning of one."""
    text = re.sub(r"\s+", r"\\s+", re.sub(r"[^\w\s]", r"\\\g<0>", line.strip()))
    if not re.search("[a-z]", line):
        return rf"^{text}$"
    return "^" + re.sub(r"\d+(\\\.\d+)?", r"[\\d.]+", text)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody who has only cloned the repository; their state lies in a folder of its own."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PYFI_", "VIRTUAL_ENV"))}
    own = {"PYFI_HOME": str(tmp_path / "home"), "PYFI_SCRATCH": str(tmp_path / "scratch")}
    (tmp_path / "scratch").mkdir()
    yield given | own
    for name in ("default", "quickstart"):
        settings = settings_module.load(home=tmp_path / "home", scratch=tmp_path / "scratch", instance=name)
        left = instance.stop(settings, lambda: None)
        embedded.remove(settings)
        assert left == [], "the README ends with everything stopped"


@pytest.mark.timeout(400)
def test_laptop_in_two_minutes(reader: dict[str, str], tmp_path: Path) -> None:
    """Quickstart with the whole model selection of examples/digits: several hundred fits in a map, a funnel, and a
    winner that reads unseen digits. Then the same by hand up to ``pyfi down``; the scratch folder is empty."""
    said = play(commands("Laptop in two minutes"), ROOT, reader, 380)[0]
    found = re.search(r"best of 245: svc .*\naccuracy: ([\d.]+)% of 450 images", said)
    assert found and float(found[1]) > 98, said
    assert "confusion matrix" in said and "258 tasks in" in said
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slurm
@pytest.mark.timeout(200)
def test_slurm_in_five(cluster: Cluster, reader: dict[str, str]) -> None:
    """Typed on the login node of a real cluster; at the end Slurm's queue is empty."""
    site = Site(cluster, "default")
    folder = cluster.shared / "readme"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
    try:
        play(commands("Slurm in five"), folder, reader | cluster.env | site.environment | {"PATH": path}, 180)
        assert cluster.run(["squeue", "--noheader"]).stdout == ""
    finally:
        site.down()
        site.remove()


def test_the_twelve_lines_are_an_example() -> None:
    """The first block of the README is examples/00_hello.py, which the examples' tests run; it has twelve lines."""
    (block,) = blocks("python")
    assert block == (ROOT / "examples/00_hello.py").read_text()
    assert block.count("\n") == 12


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("*.md"), *ROOT.glob("*/README.md")])
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file of the repository."""
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
