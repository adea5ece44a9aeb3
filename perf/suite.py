"""Ask the questions of the perf suite one after the other, print one table, keep it as JSON.

Each question runs in a process of its own with a time limit; what ends badly is named in the table, the others go on.
"""

from __future__ import annotations

import ast
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ask
import bench
import figure
import in_slurm
import machine
import venvs
from figure import Figure

from pyfi_hpc import settings as settings_module
from pyfi_hpc.client import deploy

#: in this order: what people ask first comes first
QUESTIONS = (
    "map_calls", "submits", "round_trip", "efficiency", "scaling", "metg", "chain", "fans", "arrays", "idle",
    "startup", "restart", "environments", "queued_memory", "client_memory", "decisions",
    "gangs", "scheduling",
)  # fmt: skip
#: a question that takes longer is ended, seconds
LIMIT_S = 1800.0
#: then it has so long to stop what it started
_END_S = 40.0


def main() -> int:
    options = _options()
    # leave through every `finally`: the process of a question, and what that started, must end with this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before it was done"))
    about = machine.about(options.quick, options.seed)
    print(f"{about['machine']['text']}, commit {about['commit']}, seed {about['seed']}", flush=True)
    figures: list[Figure] = []
    failures: dict[str, str] = {}

    def keep() -> None:
        if options.json:
            figure.write(options.json, about | {"failures": failures}, figures)

    with _home():
        for name in QUESTIONS if options.only is None else options.only:
            begun = time.monotonic()
            problem = _ask(name, options, figures.append)
            if problem:
                failures[name] = problem
            _progress(f"{name}: {time.monotonic() - begun:.0f} s{', ' + problem if problem else ''}")
            keep()  # what is measured stays, however this run ends
        compared = _peers(options, figures) if options.peers is not None else []
    print("\n".join([*figure.table(figures), *compared]))
    for name, problem in failures.items():
        print(f"{name:44} NO FIGURE: {problem}")
    keep()
    if options.report:
        _report(options.report, about | {"failures": failures}, figures)
    return 1 if failures or any(found.failed for found in figures) else 0


@contextmanager
def _home() -> Iterator[None]:
    """The home that all questions share; in an allocation the prepared one, because nodes may have no network."""
    with tempfile.TemporaryDirectory(prefix="pyfi-perf-") as fresh:
        os.environ[bench.HOME] = os.environ.get(in_slurm.SHARED) or fresh
        yield


def _prepare(home: str) -> None:
    """Build the environments of what is called."""
    settings = settings_module.load(home=home, instance="perf")
    for processor in ("noop", "arrays"):
        deploy.prepare(settings, str(bench.HERE / processor), allow_dirty=True, progress=_progress)


def _options() -> Namespace:
    made = ask.parser("Print the figures of this machine; exit 1 if a floor is not reached or a question fails.")
    made.prog = "perf/run"
    made.add_argument("--only", nargs="*", choices=QUESTIONS, metavar="NAME", help=", ".join(QUESTIONS))
    made.add_argument("--peers", nargs="*", metavar="NAME", help="the same work through other systems: all, or these")
    made.add_argument("--json", metavar="OUT", help="write commit, machine, seed, versions and all runs")
    made.add_argument("--report", metavar="FILE", help="write one page of HTML with tables and plots")
    made.add_argument("--list", action="store_true", help="print what each question asks, and end")
    made.add_argument("--prepare", metavar="HOME", help="only build environments there, for perf/slurm.sbatch")
    options = made.parse_args()
    if options.prepare:
        _prepare(options.prepare)
        sys.exit(0)
    if options.list:
        for name in QUESTIONS:
            text = ast.get_docstring(ast.parse((bench.HERE / "questions" / f"{name}.py").read_text()))
            print(f"{name:16} {str(text).splitlines()[0]}")
        sys.exit(0)
    return options


def _peers(options: Namespace, figures: list[Figure]) -> list[str]:
    """The lines of the comparison; its figures are added."""
    import peer_work

    found, lines = peer_work.ask(ask.plan_of(options), options.peers, _progress)
    figures += found
    return ["", "the same work through others, in turn with ours", *lines]


def _report(target: str, about: dict[str, Any], figures: list[Figure]) -> None:
    """The page is made in an environment of its own: only it needs matplotlib."""
    folder = bench.HERE / "report"
    python = venvs.ensure("report", folder / "requirements.txt")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        figure.write(file.name, about, figures)
        subprocess.run([python, folder / "report.py", file.name, target], check=True, timeout=120)


def _ask(name: str, options: Namespace, take: Callable[[Figure], None]) -> str:
    """Ask one question; what was wrong, "" if nothing was."""
    words = [sys.executable, str(Path(ask.__file__)), name, "--seed", str(options.seed), "--ranks", str(options.ranks)]
    words += ["--quick"] * options.quick + ["--runs", str(options.runs)] * bool(options.runs)
    with tempfile.TemporaryFile() as said:
        problem = _follow(words, said, take)
        if problem:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            _progress(text[-4000:])
            problem += f": {text.splitlines()[-1]}" if text else ""
    with suppress(Exception):  # usually there is nothing left; what is, must not reach into the next question
        bench.remove(settings_module.load(home=os.environ[bench.HOME], instance="perf"))
    return problem


def _follow(words: list[str], said: Any, take: Callable[[Figure], None]) -> str:
    """Run one question's process, take its figures as they come."""
    ours, theirs = os.pipe()
    process = subprocess.Popen([*words, "--tell", str(theirs)], pass_fds=(theirs,), stdout=said, stderr=said)
    os.close(theirs)
    deadline = time.monotonic() + LIMIT_S
    with _ended(process), os.fdopen(ours) as pipe:
        for line in _lines(pipe, deadline):
            take(figure.from_json(json.loads(line)))
        if time.monotonic() > deadline:
            return f"not done after {LIMIT_S:.0f} s"
        code = process.wait(_END_S)
        return f"exit code {code}" if code else ""


def _lines(pipe: Any, deadline: float) -> Iterator[str]:
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        line = pipe.readline()
        if not line:
            return
        yield line


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the process ends, and has time to clean up before."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
