"""What changed between two result files: the ratio of each figure, and whether it is more than the spread.

    perf/compare A.json B.json

A change counts when each median lies outside of the other's smallest and largest run. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import sys

import figure as figures
from figure import Figure, short


def lines(before: dict[str, Figure], after: dict[str, Figure]) -> list[str]:
    """A line for each figure of either file."""
    found = [f"{'figure':44} {'A':>9} {'B':>9} {'unit':9} {'B/A':>6}  what it means"]
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            there = "B" if old is None else "A"
            found.append(f"{name:44} only in {there}")
            continue
        ratio = f"{new.median / old.median:6.2f}" if old.median else f"{'':6}"
        change = verdict(old, new)
        found.append(f"{name:44} {short(old.median):>9} {short(new.median):>9} {old.unit:9} {ratio}  {change}")
    return found


def verdict(old: Figure, new: Figure) -> str:
    """In words; ``within the spread`` is no news."""
    if min(old.runs) <= new.median <= max(old.runs) or min(new.runs) <= old.median <= max(new.runs):
        return "within the spread"
    return "better, outside both spreads" if (new.median > old.median) == old.most else "WORSE, outside both spreads"


def main() -> int:
    parser = argparse.ArgumentParser(prog="perf/compare", description=str(__doc__).splitlines()[0])
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    options = parser.parse_args()
    a, b = figures.read(options.a), figures.read(options.b)
    for letter, about in (("A", a), ("B", b)):
        print(f"{letter}: {about['machine']['text']}, commit {about['commit']}, seed {about['seed']}"
              f"{', quick' if about['quick'] else ''}")  # fmt: skip
    alike = ("processor", "cores")
    if any(a["machine"][key] != b["machine"][key] for key in alike) or a["quick"] != b["quick"]:
        print("these are different machines or sizes: compare the shape, not the figures")
    print("\n".join(lines(a["figures"], b["figures"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
