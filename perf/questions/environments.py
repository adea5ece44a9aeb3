"""How long does it take until new code runs on 1, 4 and 16 ranks, and how much of it is its environment?

A processor that nobody has deployed: its environment is built once (from the installer's cache, nothing but what a
runner needs), then each rank starts a runner in it. Until the first result of every rank.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import Executor
from pyfi_hpc.settings import Settings

#: each task keeps its rank for so long, so that none gets two before all have one, seconds
_KEEP_S = 0.3


def ask(plan: Plan) -> Iterator[Figure]:
    for ranks in (1, 4) if plan.quick else (1, 4, 16):
        builds, firsts = [], []
        with bench.fresh_instance(ranks) as settings, tempfile.TemporaryDirectory() as folder:
            for number in range(plan.runs):
                source = _repository(Path(folder), f"new{ranks}x{number}")
                begun = time.perf_counter()
                bench.deploy_folder(settings, source)
                builds.append(time.perf_counter() - begun)
                firsts.append(_first_results(settings, source.name, ranks))
        many = f"{ranks} rank{'s' * (ranks > 1)}"
        yield Figure(f"deploy with a new environment, {many} there", tuple(builds), "s", False)
        yield Figure(
            f"then until {many} ran it", tuple(firsts), "s", False, 0, 0, (_KEEP_S,), "", "environments", ranks
        )


def _repository(folder: Path, name: str) -> Path:
    """The no-op processor under another name, with requirements that no other has."""
    made = folder / name
    made.mkdir()
    shutil.copy(bench.HERE / "noop" / "noop.py", made / "noop.py")
    (made / "pyfi.toml").write_text(f'name = "{name}"\nmodule = "noop"\n')
    (made / "requirements.txt").write_text(f"# {name} {time.time_ns()}\n")
    us = ["-c", "user.name=perf", "-c", "user.email=perf@localhost"]
    for words in (["init", "-q"], ["add", "."], [*us, "commit", "-q", "-m", "new"]):
        subprocess.run(["git", *words], cwd=made, check=True, timeout=20)
    return made


def _first_results(settings: Settings, name: str, ranks: int) -> float:
    """Seconds until every rank has run one task."""
    begun = time.perf_counter()
    seen: set[int] = set()
    with Executor() as executor:
        while len(seen) < ranks:
            futures = [executor.submit(f"{name}.where", _KEEP_S) for _ in range(ranks)]
            seen.update(future.result() for future in futures)
    return time.perf_counter() - begun
