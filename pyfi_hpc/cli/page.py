"""The page of ``pyfi report``: one file of HTML and SVG without scripts and without anything from outside. Pure.

Its size follows what can be seen: a job of few tasks shows each of them, of many it shows how busy each rank was in
each of some hundred stretches of time, and ranks beyond some dozens share rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyfi_hpc.cli import timeline as t
from pyfi_hpc.cli.markup import (
    WIDTH,
    cut,
    escaped,
    lasting,
    moment,
    percent,
    section,
    speed,
    stretches,
    svg,
    table,
    ticks,
)  # fmt: skip
from pyfi_hpc.model.states import TaskState

#: up to so many slices each is drawn
SLICES_DRAWN_MAX = 2000
ROWS_MAX, COLUMNS = 64, 480
#: rows of a table
_SHOWN = 20
#: width of the names beside a picture, height of a row, in the units of the picture
_NAMES, _ROW = 150, 16
_LEVELS = 8
_COLOURS = 8


def page(head: Mapping[str, Any], found: t.Timeline, errors: Mapping[int, str], now: float) -> str:
    """The whole page.

    Parameters
    ----------
    head : mapping
        The job as the desk lists it.
    errors : mapping
        What went wrong with some of the tasks that did not complete, by index.
    now : float
        When it was written, seconds since 1970.
    """
    name = head["name"] or head["socket"]
    title = f"Job {head['job']}: {name}"
    ran = bool(found.lanes)
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="note">{escaped(_subtitle(head, found, now))}</p>',
        _tiles(head, found),
        *([_spent(found), _lanes(head, found), _busy(found), _durations(found), _functions(found)] if ran else []),
        *([_slowest(head, found)] if ran else ["<p>No task of this job has run yet.</p>"]),
        _failures(head, found, errors),
        _causes(found),
        *([_ranks(found)] if ran else []),
        _MEANING,
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def figures(head: Mapping[str, Any], found: t.Timeline) -> dict[str, Any]:
    """The figures of the page as plain values, for ``--json``."""
    total = found.rank_seconds
    spent = t.spent(found)
    return {
        "job": head["job"],
        "name": head["name"],
        "done": bool(head["done"]),
        "tasks": head["tasks"],
        "states": found.states,
        "submitted": found.start,
        "ended": found.end,
        "elapsed_s": found.end - found.start,
        "ranks": len(found.lanes),
        "rank_seconds": total,
        "spent_s": spent,
        "utilisation": spent["completed"] / total if total else None,
        "failed_attempts": found.causes,
        "functions": [{name: getattr(row, name) for name in row.__slots__} for row in t.functions(found)],
        "slowest": [
            {"task": f"{head['job']}.{one.index}", "socket": one.socket, "node": lane.node, "rank": lane.rank,
             "attempt": one.attempt, "state": one.word, "started": one.start, "duration_s": one.end - one.start}
            for lane, one in t.slowest(found, _SHOWN)
        ],
    }  # fmt: skip


# --- figures ------------------------------------------------------------------------------------------


def _subtitle(head: Mapping[str, Any], found: t.Timeline, now: float) -> str:
    state = "ended" if head["done"] else "not ended: what is final so far"
    ranges = f"{moment(found.start)} to {moment(found.end)}"
    return f"{ranges} · {state} · owner {head['owner']} · written {moment(now)}"


def _tiles(head: Mapping[str, Any], found: t.Timeline) -> str:
    final = sum(found.states.values())
    completed = found.states.get("COMPLETED", 0)
    elapsed, total = found.end - found.start, found.rank_seconds
    nodes = len({lane.node for lane in found.lanes})
    tiles = [
        ("tasks", f"{head['tasks']:,}", f"{final:,} final" if final != head["tasks"] else "all final"),
        ("completed", f"{completed:,}", _others(found.states)),
        ("from submission to the last end", lasting(elapsed), speed(completed / elapsed) if elapsed else ""),
        ("ranks", f"{len(found.lanes):,}", f"on {nodes:,} node{'s' * (nodes != 1)}"),
    ]
    if total:
        share = t.spent(found)["completed"] / total
        tiles.append(("utilisation", f"{100 * share:.1f} %", f"of {lasting(total)} rank time"))
    failed = sum(found.causes.values())
    if failed:
        tiles.append(("attempts that failed", f"{failed:,}", "and were made again"))
    cells = "".join(
        f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(label)}</span><i>{escaped(more)}</i></div>'
        for label, value, more in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _others(states: Mapping[str, int]) -> str:
    rest = [f"{count:,} {name.lower()}" for name, count in sorted(states.items()) if name != "COMPLETED"]
    return ", ".join(rest) or "no other end"


def _spent(found: t.Timeline) -> str:
    total = found.rank_seconds
    if not total:
        return ""
    spent = t.spent(found)
    bars, x = [], 0.0
    for key, name in t.KINDS:
        width = WIDTH * spent[key] / total
        if width > 0:
            hint = f"<title>{escaped(name)}: {percent(spent[key], total)}</title>"
            bars.append(f'<rect class="k-{key}" x="{x:.2f}" width="{width:.2f}" height="26">{hint}</rect>')
        x += width
    rows = [
        [f'<i class="key k-{key}"></i>{escaped(name)}', lasting(spent[key]), percent(spent[key], total)]
        for key, name in t.KINDS
    ]
    rows.append(["<b>ranks × length of the job</b>", lasting(total), ""])
    return section("What each rank-second went to", svg(26, "".join(bars)) + table(["", "time", "share"], rows))


def _lanes(head: Mapping[str, Any], found: t.Timeline) -> str:
    rows = t.rows_of(found.lanes, ROWS_MAX)
    each = sum(len(lane.slices) for lane in found.lanes) <= SLICES_DRAWN_MAX and len(rows) == len(found.lanes)
    height = _ROW * len(rows)
    names = "".join(
        f'<text class="name" x="{_NAMES - 8}" y="{_ROW * at + 12}">{escaped(cut(name, 24))}'
        f"<title>{escaped(name)}</title></text>"
        for at, (name, _) in enumerate(rows)
    )
    drawn = _slices(head["job"], found, rows) if each else _shades(found, rows)
    picture = svg(height + 22, _grid_lines(found, height) + names + drawn)
    if each:
        sockets = _sockets(found)
        keys = [f'<i class="key c{at}"></i>{escaped(name)}' for name, at in sockets.items()][:_COLOURS]
        keys.append('<i class="key bad"></i>did not complete')
        if any(one.lost for _, one in found.slices()):
            keys.append('<i class="key bad pale"></i>was made again; begins as early as is possible')
        about = "Each bar is an attempt; hold the pointer on one to see its task."
    else:
        keys = ['<i class="key shade"></i>the darker, the busier', '<i class="key bad"></i>something failed here']
        per_row = "" if len(rows) == len(found.lanes) else f" Each row is up to {len(rows[0][1])} ranks."
        about = f"Each of {COLUMNS} columns is {lasting((found.end - found.start) / COLUMNS)}.{per_row}"
    drawn_keys = "".join(f"<span>{key}</span>" for key in keys)
    return section("What each rank did", f'<p class="note">{about}</p>{picture}<p class="keys">{drawn_keys}</p>')


def _slices(job: int, found: t.Timeline, rows: Sequence[tuple[str, list[t.Lane]]]) -> str:
    scale = _scale(found)
    colours = _sockets(found)
    drawn = []
    for at, (_, (lane,)) in enumerate(rows):
        for one in lane.slices:
            x, width = _NAMES + (one.start - found.start) * scale, max((one.end - one.start) * scale, 0.6)
            bad = one.lost or one.state is not TaskState.COMPLETED
            kind = ("bad" if bad else f"c{colours[one.socket]}") + (" lost" if one.lost else "")
            hint = f"{job}.{one.index} {one.socket} {one.word}, attempt {one.attempt}"
            took = f"{'at most ' if one.lost else ''}{lasting(one.end - one.start)}"
            drawn.append(
                f'<rect class="{kind}" x="{x:.2f}" y="{_ROW * at + 2}" width="{width:.2f}" height="{_ROW - 4}">'
                f"<title>{escaped(hint)}\n{took}</title></rect>"
            )
    return "".join(drawn)


def _shades(found: t.Timeline, rows: Sequence[tuple[str, list[t.Lane]]]) -> str:
    """One path for each shade, in units of columns: a stretch of equal ones is a few bytes."""
    paths: dict[str, list[str]] = {}
    failures: list[str] = []
    for at, (_, lanes) in enumerate(rows):
        busy, failed = t.grid(found, lanes, COLUMNS)
        levels = [min(_LEVELS, math.ceil(share * _LEVELS)) if share > 0.002 else 0 for share in busy]
        y = _ROW * at + _ROW // 2
        for level, first, count in stretches(levels):
            if level:
                paths.setdefault(f"s{level}", []).append(f"M{first} {y}h{count}")
        for bad, first, count in stretches(failed):
            if bad:
                failures.append(f"M{first} {y + _ROW // 2 - 2}h{count}")
    drawn = "".join(f'<path class="{kind}" d="{"".join(strokes)}"/>' for kind, strokes in sorted(paths.items()))
    # the failures last, or shades would lie over them
    drawn += f'<path class="bad" d="{"".join(failures)}"/>' if failures else ""
    return f'<g transform="translate({_NAMES} 0) scale({(WIDTH - _NAMES) / COLUMNS:g} 1)">{drawn}</g>'


def _busy(found: t.Timeline) -> str:
    """Busy ranks over time."""
    busy, _ = t.grid(found, found.lanes, COLUMNS)
    height = 90
    width = (WIDTH - _NAMES) / COLUMNS
    points = [f"{_NAMES},{height}"]
    for at, share in enumerate(busy):
        y = height * (1 - share)
        points += [f"{_NAMES + at * width:.1f},{y:.1f}", f"{_NAMES + (at + 1) * width:.1f},{y:.1f}"]
    points.append(f"{WIDTH},{height}")
    ranks = len(found.lanes)
    names = f'<text class="name" x="{_NAMES - 8}" y="10">{ranks}</text>'
    names += f'<text class="name" x="{_NAMES - 8}" y="{height}">0</text>'
    area = f'<polygon class="area" points="{" ".join(points)}"/>'
    return section("Busy ranks over time", svg(height + 22, _grid_lines(found, height) + area + names))


def _durations(found: t.Timeline) -> str:
    steps = t.histogram(found)
    if not steps:
        return ""
    most = max(count for _, _, count in steps)
    height, width = 90, (WIDTH - _NAMES) / max(len(steps), 12)
    drawn = []
    for at, (low, high, count) in enumerate(steps):
        tall = max(height * count / most, 1.0 if count else 0.0)
        x = _NAMES + at * width
        hint = f"{count:,} from {lasting(low)} to {lasting(high)}"
        drawn.append(
            f'<rect class="c0" x="{x + 1:.1f}" y="{height - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}">'
            f"<title>{hint}</title></rect>"
        )
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{height + 16}">{lasting(low)}</text>')
    drawn.append(f'<text class="name" x="{_NAMES - 8}" y="10">{most:,}</text>')
    return section("How long tasks took", svg(height + 22, "".join(drawn)))


# --- tables -------------------------------------------------------------------------------------------


def _functions(found: t.Timeline) -> str:
    rows = t.functions(found)
    cells = [
        [escaped(row.socket), f"{row.count:,}", f"{row.not_completed:,}", lasting(row.total_s), lasting(row.mean_s),
         lasting(row.median_s), lasting(row.p95_s), lasting(row.max_s)]
        for row in rows[:_SHOWN]
    ]  # fmt: skip
    titles = ["function", "tasks", "not completed", "total", "mean", "median", "95th percentile", "longest"]
    return section("Functions", table(titles, cells, len(rows)))


def _slowest(head: Mapping[str, Any], found: t.Timeline) -> str:
    cells = [
        [f"{head['job']}.{one.index}", escaped(one.socket), escaped(lane.name), f"+{lasting(one.start - found.start)}",
         lasting(one.end - one.start), str(one.attempt), escaped(one.word)]
        for lane, one in t.slowest(found, _SHOWN)
    ]  # fmt: skip
    total = sum(not one.lost for _, one in found.slices())
    titles = ["task", "function", "rank", "started", "took", "attempt", "state"]
    return section("Slowest tasks", table(titles, cells, total))


def _failures(head: Mapping[str, Any], found: t.Timeline, errors: Mapping[int, str]) -> str:
    count = sum(number for name, number in found.states.items() if name != "COMPLETED")
    if not count:
        return ""
    cells = [[f"{head['job']}.{index}", escaped(cut(error, 300))] for index, error in sorted(errors.items())]
    return section("Tasks that did not complete", table(["task", "error"], cells, count))


def _causes(found: t.Timeline) -> str:
    if not found.causes:
        return ""
    rows = [[escaped(name), f"{count:,}"] for name, count in sorted(found.causes.items(), key=lambda pair: -pair[1])]
    return section("Attempts that failed and were made again", table(["cause", "attempts"], rows))


def _ranks(found: t.Timeline) -> str:
    length = found.end - found.start
    rows = []
    for name, lanes in t.rows_of(found.lanes, ROWS_MAX):
        spent = t.spent(found, lanes)
        whole = length * len(lanes)
        tasks = sum(not one.lost for lane in lanes for one in lane.slices)
        lost = sum(one.lost for lane in lanes for one in lane.slices)
        shares = [percent(spent[key], whole) for key in ("completed", "failed", "lost", "startup", "waiting", "after")]
        rows.append([escaped(name), f"{tasks:,}", f"{lost:,}", *shares])
    titles = ["rank", "tasks", "failed attempts", "completed", "not completed", "lost", "start-up", "waiting", "after"]
    return section("Ranks", table(titles, rows))


# --- pictures -----------------------------------------------------------------------------------------


def _scale(found: t.Timeline) -> float:
    length = found.end - found.start
    return (WIDTH - _NAMES) / length if length > 0 else 0.0


def _grid_lines(found: t.Timeline, height: float) -> str:
    length, scale = found.end - found.start, _scale(found)
    drawn = []
    for seconds in ticks(length):
        x = _NAMES + seconds * scale
        end = "" if x < WIDTH - 50 else " end"
        drawn.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y2="{height}"/>')
        drawn.append(f'<text class="tick{end}" x="{x:.1f}" y="{height + 16}">{lasting(seconds)}</text>')
    return "".join(drawn)


def _sockets(found: t.Timeline) -> dict[str, int]:
    """A colour for each function, by the time that it took."""
    return {row.socket: min(at, _COLOURS - 1) for at, row in enumerate(t.functions(found))} | {
        one.socket: 0 for _, one in found.slices() if one.lost
    }


#: docs/cli.md says the same
_MEANING = Path(__file__).with_name("page_meaning.html").read_text("utf-8")

_STYLE = Path(__file__).with_name("page.css").read_text("utf-8") + "".join(
    [f".c{n}{{fill:var(--c{n});background:var(--c{n})}}" for n in range(_COLOURS)]
    + [f"svg .s{n}{{opacity:{n / _LEVELS:g}}}" for n in range(1, _LEVELS + 1)]
    + [
        f".k-{key}{{fill:var(--{colour});background:var(--{colour})}}"
        for (key, _), colour in zip(t.KINDS, ("c0", "c5", "bad", "c2", "c7", "line"), strict=True)
    ]
)
