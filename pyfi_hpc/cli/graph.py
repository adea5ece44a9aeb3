"""The call graph as text: callers above, what they led to below, siblings side by side. Pure.

    sample.square   sample.square   sample.square
       2.0 CD          2.1 CD          2.2 CD
          └───────────────┼───────────────┘
                    sample.total
                       2.3 CD

A call stands one level below the lowest call that it needs. Between two levels each set of calls with the
same needs has a line of its own; a line that only passes another one crosses it without touching (``│``).
Calls that are alike (one name, the same needs, the same dependents) are drawn as one with their number where
they would not fit.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: calls in one picture
TASKS_MAX = 500
_GAP = 3
_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_LINES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"


@dataclass(eq=False)
class _Box:
    """One call, some that are alike, or (without lines) an edge that passes a level."""

    lines: tuple[str, ...]
    level: int
    parents: list[_Box] = field(default_factory=list)
    children: list[_Box] = field(default_factory=list)
    #: column of its middle
    x: int = 0

    @property
    def width(self) -> int:
        return max(map(len, self.lines), default=1)


def width_here() -> int:
    """Columns of the terminal; what goes into a pipe may be wide."""
    return shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 160


def draw(tasks: Mapping[str, Mapping[str, Any]], edges: Iterable[Sequence[str]], width: int = 160) -> str:
    """The picture of a graph without cycles.

    Parameters
    ----------
    tasks : mapping
        Rows of the desk by id: ``socket`` and ``code`` are shown.
    edges : iterable
        Pairs of ids, from and to.
    width : int
        Columns; beyond it like calls are drawn as one.
    """
    known = [(a, b) for a, b in edges if a in tasks and b in tasks]
    levels = _levels(tasks, known)
    single = {name: (name,) for name in tasks}
    rows = _place(tasks, known, levels, single)
    if max((sum(box.width + _GAP for box in row) for row in rows), default=0) > width:
        rows = _place(tasks, known, levels, _alike(tasks, known, levels))
    lines: list[str] = []
    for at, row in enumerate(rows):
        lines += _text_of(row)
        if at + 1 < len(rows):
            lines += _connect(row)
    return "\n".join(line.rstrip() for line in lines)


def _levels(tasks: Mapping[str, Any], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest way from a call that needs nothing; one pass in topological order."""
    needs = Counter(b for _, b in edges)
    leads = defaultdict(list)
    for a, b in edges:
        leads[a].append(b)
    levels = dict.fromkeys(tasks, 0)
    ready = [name for name in tasks if not needs[name]]
    for name in ready:
        for child in leads[name]:
            levels[child] = max(levels[child], levels[name] + 1)
            needs[child] -= 1
            if not needs[child]:
                ready.append(child)
    return levels


def _alike(
    tasks: Mapping[str, Any], edges: Sequence[tuple[str, str]], levels: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """Each call with those that it may be drawn together with."""
    parents, children = defaultdict(list), defaultdict(list)
    for a, b in edges:
        parents[b].append(a)
        children[a].append(b)
    groups: dict[Any, list[str]] = defaultdict(list)
    for name, row in tasks.items():
        key = (row["socket"], levels[name], tuple(sorted(parents[name])), tuple(sorted(children[name])))
        groups[key].append(name)
    return {name: tuple(group) for group in groups.values() for name in group}


def _place(
    tasks: Mapping[str, Any], edges: Sequence[tuple[str, str]], levels: Mapping[str, int],
    groups: Mapping[str, tuple[str, ...]],
) -> list[list[_Box]]:  # fmt: skip
    """Boxes by level with their columns."""
    boxes: dict[tuple[str, ...], _Box] = {}
    rows: list[list[_Box]] = [[] for _ in range(max(levels.values(), default=-1) + 1)]
    for name in sorted(tasks, key=_number):
        group = groups[name]
        if group not in boxes:
            boxes[group] = _Box(_label(tasks, group), levels[name])
            rows[levels[name]].append(boxes[group])
    for a, b in dict.fromkeys((groups[a], groups[b]) for a, b in edges):
        _link(boxes[a], boxes[b], rows)
    for _ in range(2):
        _order(rows)
    _columns(rows)
    return rows


def _link(parent: _Box, child: _Box, rows: list[list[_Box]]) -> None:
    """An edge; one over several levels becomes a chain."""
    while parent.level + 1 < child.level:
        step = _Box((), parent.level + 1, [parent])
        parent.children.append(step)
        rows[step.level].append(step)
        parent = step
    parent.children.append(child)
    child.parents.append(parent)


def _order(rows: list[list[_Box]]) -> None:
    """Each below the middle of what it needs: fewer crossings."""
    for row in rows[1:]:
        place = {box: at for above in rows for at, box in enumerate(above)}
        row.sort(key=lambda box: sum(place[p] for p in box.parents) / max(len(box.parents), 1))


def _columns(rows: list[list[_Box]]) -> None:
    """Middle of each box: level by level under its parents, then once upwards over its children."""
    for row in rows:
        _spread(row, [_middle(box.parents) for box in row])
    for row in reversed(rows[:-1]):
        _spread(row, [_middle(box.children) if box.children else box.x for box in row])
    for row in rows[1:]:
        _spread(row, [_middle(box.parents) if box.parents and len(box.parents) > 1 else box.x for box in row])
    left = min((box.x - box.width // 2 for row in rows for box in row), default=0)
    for row in rows:
        for box in row:
            box.x -= left


def _spread(row: list[_Box], wanted: list[int]) -> None:
    """Put boxes near where they want to be, in order, without touching: pushed right, then centred."""
    at = None
    for box, x in zip(row, wanted, strict=True):
        low = box.width // 2 if at is None else at + box.width // 2
        box.x = max(x, low) if at is not None else x
        at = box.x + (box.width - box.width // 2) + _GAP
    shift = (sum(wanted) - sum(box.x for box in row)) // max(len(row), 1)
    for box in row:
        box.x += shift


def _middle(boxes: Sequence[_Box]) -> int:
    return (min(box.x for box in boxes) + max(box.x for box in boxes)) // 2 if boxes else 0


def _text_of(row: list[_Box]) -> list[str]:
    height = max((len(box.lines) for box in row), default=0) or 1
    lines = []
    for number in range(height):
        line: list[str] = []
        for box in row:
            passing = not box.lines
            text = "│" if passing else box.lines[number] if number < len(box.lines) else ("│" if box.children else "")
            start = box.x - len(text) // 2
            line += " " * (start + len(text) - len(line))
            line[start : start + len(text)] = text
        lines.append("".join(line))
    return lines


def _connect(row: list[_Box]) -> list[str]:
    """The lines between a level and the next: a line for each set of needs."""
    buses: dict[tuple[int, ...], tuple[list[_Box], list[_Box]]] = {}
    for child in dict.fromkeys(child for box in row for child in box.children):
        key = tuple(sorted(id(parent) for parent in child.parents))
        buses.setdefault(key, (child.parents, []))[1].append(child)
    ordered = sorted(buses.values(), key=lambda bus: min(box.x for box in (*bus[0], *bus[1])))
    width = max((box.x for bus in ordered for part in bus for box in part), default=0) + 1
    lines = []
    for at, (parents, children) in enumerate(ordered):
        marks = [0] * width
        xs = [box.x for box in (*parents, *children)]
        for x in range(min(xs), max(xs)):
            marks[x] |= _RIGHT
            marks[x + 1] |= _LEFT
        for box in parents:
            marks[box.x] |= _UP
            if any(box in later[0] for later in ordered[at + 1 :]):
                marks[box.x] |= _DOWN
        for box in children:
            marks[box.x] |= _DOWN
        passing = {box.x for later in ordered[at + 1 :] for box in later[0] if box not in parents}
        passing |= {box.x for earlier in ordered[:at] for box in earlier[1]}
        lines.append("".join("│" if x in passing else _LINES[mark] for x, mark in enumerate(marks)))
    return lines


def _label(tasks: Mapping[str, Any], group: tuple[str, ...]) -> tuple[str, str]:
    name = str(tasks[group[0]]["socket"])
    if len(group) == 1:
        return name, f"{group[0]} {tasks[group[0]]['code']}"
    states = Counter(tasks[one]["code"] for one in group)
    return f"{name} x {len(group)}", " ".join(f"{count} {code}" for code, count in sorted(states.items()))


def _number(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdigit())
