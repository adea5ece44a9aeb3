"""Ask one question in a process of its own: python perf/ask.py NAME [--quick] [--runs N] [--seed N]

perf/run does this for each; its figures come over the file descriptor that ``--tell`` names, a JSON line each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict, replace
from typing import Any

import bench
import figure


def parser(about: str) -> argparse.ArgumentParser:
    """What perf/run and this understand alike."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    made.add_argument("--runs", type=int, metavar="N", help="runs of each figure, at least 3, the default")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn by chance; default 0")
    made.add_argument("--ranks", type=int, default=2, metavar="N", help="default 2")
    return made


def plan_of(options: argparse.Namespace) -> bench.Plan:
    runs = max(3, options.runs or 3)
    return bench.Plan(options.quick, runs, options.ranks, options.seed)


def main() -> int:
    made = parser(str(__doc__).splitlines()[0])
    made.add_argument("name")
    made.add_argument("--tell", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = made.parse_args()
    signal.signal(signal.SIGTERM, _end)
    module: Any = importlib.import_module(f"questions.{options.name}")
    told = os.fdopen(options.tell, "w") if options.tell else None
    for found in module.ask(plan_of(options)):
        named = replace(found, question=options.name)
        if told:
            print(json.dumps(asdict(named)), file=told, flush=True)
        elif not named.quiet:
            print(figure.table([named])[-1], flush=True)
    return 0


def _end(*_: object) -> None:
    """The time is up: leave through every ``finally``, so that no process of an instance stays."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit("ended before it was done")


if __name__ == "__main__":
    sys.exit(main())
