"""The second half of launchers/quickstart: an instance, real code from git, real work, the answer, and out.

Everything lies in .pyfi beside this folder (environments, ledger), so a second run finds it there.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("PYFI_HOME", str(ROOT / ".pyfi"))
os.environ.setdefault("PYFI_INSTANCE", "quickstart")

import msgspec  # noqa: E402

from pyfi_hpc import settings as settings_module  # noqa: E402
from pyfi_hpc.client import deploy, session  # noqa: E402
from pyfi_hpc.errors import PyfiError, SiteError  # noqa: E402
from pyfi_hpc.hosts import instance  # noqa: E402

_JOIN_S = 60.0
_RUN = "examples/digits/run.py"
_STARTED = time.time()
_phases: list[tuple[str, float]] = []


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Time a part of the run for the table at the end."""
    begun = time.perf_counter()
    yield
    _phases.append((name, time.perf_counter() - begun))


def main() -> int:
    settings = settings_module.load()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with phase("start ledger, broker, agent, ranks"):
            start(settings)
        with phase("deploy examples/digits from git"):
            deploy_digits(settings)
        with phase(_RUN):
            print(f"- running  {_RUN}\n")
            runpy.run_path(str(ROOT / "examples/digits/run.py"), run_name="__main__")
        account_of_run = account()
    except PyfiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        with phase("stop everything"):
            down(settings)
    report(*account_of_run)
    return 0


def start(settings: settings_module.Settings) -> None:
    down(settings)  # what an earlier run left, had it been killed
    for part in (instance.start_ledger(settings), instance.start_broker(settings)):
        print(f"- {part.name:8} {part.text}  {part.seconds:.1f} s")
    begun = time.perf_counter()
    instance.start_agent(settings, None)
    wanted = len(os.sched_getaffinity(0))
    joined = instance.wait_for_ranks(settings, nodes, wanted, _JOIN_S)
    print(f"- {'ranks':8} {joined} of {wanted} joined, one per core  {time.perf_counter() - begun:.1f} s")


def nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.current().ask("info", {})["broker"]["nodes"]
    return found


def deploy_digits(settings: settings_module.Settings) -> None:
    spec = deploy.prepare(settings, str(ROOT / "examples/digits"), allow_dirty=True)
    session.current().ask("deploy", msgspec.to_builtins(spec))
    built = f"built in {spec.build_s:.1f} s" if spec.built else "unchanged"
    print(f"- {'deployed':8} {spec.name} @ {spec.code.commit[:7]}, environment {built}")


def account() -> tuple[int, float]:
    """Tasks settled in this run and the seconds that the functions took, from the ledger."""
    jobs = [job for job in session.current().ask("jobs", {})["rows"] if job["opened_at"] >= _STARTED]
    return sum(job["tasks"] for job in jobs), sum(job.get("busy_s", 0.0) for job in jobs)


def report(tasks: int, busy_s: float) -> None:
    """The throughput, and where each second went."""
    ranks = len(os.sched_getaffinity(0))
    running_s = dict(_phases)[_RUN]
    print(f"\n{tasks / running_s:.0f} tasks/s on {ranks} ranks, each settled once in the ledger")
    print("where each second went")
    for name, seconds in _phases:
        print(f"  {seconds:6.1f} s  {name}")
        if name == _RUN:
            share = busy_s / (ranks * running_s)
            print(f"  {busy_s / ranks:6.1f} s    of it in your functions, {ranks} ranks at once ({share:.0%} busy)")
    print(f"  {sum(seconds for _, seconds in _phases):6.1f} s  in all")


def down(settings: settings_module.Settings) -> None:
    instance.stop(settings, lambda: session.current().ask("shutdown", {}, timeout=8.0))
    session.close_all()


if __name__ == "__main__":
    if not hasattr(os, "sched_getaffinity"):
        raise SiteError("this needs Linux")
    sys.exit(main())
