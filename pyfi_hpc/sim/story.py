"""The story of a task: everything that was said and done about it, in order, readable like the protocol.

::

      2.013482  c1 -> b1      Submit key=7f3a number=0 first=0 count=12
      2.015511  ledger b1     + BatchAdmitted job=3 batch=5 number=0 count=12
      2.015511  b1 -> n2      Grant grant=1.7 3.0-11 attempt=1

A line is kept with what it is about; which lines tell of a task is asked at the end, when it is known which
batch and which grants were its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.ids import GrantId, epoch_of, task_name
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    BatchClosed,
    DurationsLearned,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
)
from pyfi_hpc.model.states import Cause, TaskState

#: tasks of a batch, by offset: (batch, lo, count)
Span = tuple[int, int, int]


@dataclass(slots=True)
class Line:
    at: float
    who: str
    text: str
    #: a message, a record, a span, a key, or None: about everything
    about: Any


class Story:
    """All lines of a run."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._spans: dict[int, Span] = {}  #: grant -> its tasks
        self._keys: dict[bytes, int] = {}  #: key -> job
        self._first: dict[int, tuple[int, int]] = {}  #: batch -> job, first

    def add(self, at: float, who: str, text: str, about: Any = None) -> None:
        if text == "":
            text = words(about)
        self.lines.append(Line(at, who, text, spans(about)))
        if isinstance(about, m.Grant):
            for item in about.items:
                self._spans[item.grant] = (item.batch, item.lo, item.count)
        elif isinstance(about, BatchAdmitted):
            self._first[about.batch] = (about.job, about.first)
        elif isinstance(about, JobOpened):
            self._keys[about.key] = about.job

    def of(self, job: int, index: int) -> Iterator[str]:
        """The lines that tell of one task, and what befell everybody between the first of them and the last."""
        told: list[Line] = []
        last = 0
        for line in self.lines:
            if line.about is not None and any(self._tells(part, job, index) for part in line.about):
                told.append(line)
                last = len(told)
            elif line.about is None and told:
                told.append(line)
        for line in told[:last]:
            yield f"{line.at:12.6f}  {line.who:14} {line.text}"

    def _tells(self, part: tuple[Any, ...], job: int, index: int) -> bool:
        match part:
            case ("batch", int(batch), int(lo), int(count)):
                at = self._first.get(batch)
                return at is not None and at[0] == job and lo <= index - at[1] < lo + count
            case ("grant", int(grant), int(lo), int(count)):
                span = self._spans.get(grant)
                return span is not None and self._tells(("batch", span[0], lo, count), job, index)
            case ("job", int(other), int(first), int(count)):
                return other == job and first <= index < first + count
            case ("key", bytes(key), int(first), int(count)):
                return self._keys.get(key) == job and first <= index < first + count
        return False


_ALL = 1 << 62


def spans(about: Any) -> list[tuple[Any, ...]] | None:
    """Which tasks a message or record is about; None: it concerns everybody."""
    if about is None:
        return None
    if isinstance(about, tuple):
        return [about]
    teller = _SPANS.get(type(about))
    return list(teller(about)) if teller else []


def _cancel(c: m.Cancel) -> Iterable[tuple[Any, ...]]:
    count = _ALL if c.count < 0 else c.count
    return [("grant" if c.request == 0 else "job", c.job, c.first, count)]


_SPANS: dict[type, Callable[[Any], Iterable[tuple[Any, ...]]]] = {
    m.Submit: lambda x: [("key", x.key, x.first, x.count)],
    m.Accepted: lambda x: [("key", x.key, 0, _ALL)],
    m.Refused: lambda x: [("key", x.key, 0, _ALL)],
    m.Resolved: lambda x: [("job", x.job, r.first, r.count) for r in x.ranges],
    m.Page: lambda x: [("job", x.job, r.first, r.count) for r in x.ranges],
    m.Watch: lambda x: [("job", x.job, 0, _ALL)],
    m.Cancel: _cancel,
    m.Grant: lambda x: [("batch", i.batch, i.lo, i.count) for i in x.items],
    m.Finished: lambda x: [("batch", o.batch, o.lo, o.count) for o in x.outcomes],
    m.Kept: lambda x: [("grant", grant, lo, count) for grant, lo, count in x.ranges],
    m.Hello: lambda x: [("batch", h.batch, h.lo, h.count) for h in x.held],
    m.Beat: lambda x: [("grant", grant, offset, 1) for grant, offset in x.running],
    m.Bundle: lambda x: [("batch", x.batch, x.lo, x.count)],
    m.Done: lambda x: [("batch", x.outcome.batch, x.outcome.lo, x.outcome.count)],
    JobOpened: lambda r: [("job", r.job, 0, _ALL)],
    BatchAdmitted: lambda r: [("batch", r.batch, 0, r.count)],
    OutcomeSettled: lambda r: [("batch", r.batch, r.lo, r.count)],
    AttemptFailed: lambda r: [("batch", r.batch, r.offset, 1)],
    BatchClosed: lambda r: [("batch", r.batch, 0, _ALL)],
    HoldChanged: lambda r: [("job", r.job, 0, _ALL)],
    DurationsLearned: lambda r: [],
}


def words(about: Any) -> str:
    """A message or record in one line, without payloads."""
    name = type(about).__name__
    teller = _WORDS.get(type(about))
    if teller is not None:
        return f"{name} {teller(about)}".rstrip()
    shown = []
    fields: tuple[str, ...] = getattr(about, "__struct_fields__", ()) or getattr(about, "__slots__", ())
    for field in fields:
        value = getattr(about, field)
        if isinstance(value, bytes | list) or field.endswith("_at"):
            continue
        shown.append(f"{field}={grant_name(value) if field == 'grant' else value}")
    return f"{name} {' '.join(shown)}".rstrip()


def grant_name(grant: int) -> str:
    """A grant as epoch and number."""
    return f"{epoch_of(GrantId(grant))}.{grant & ((1 << 39) - 1)}"


def _causes(data: bytes) -> str:
    names = [Cause(c).name if c <= max(Cause) else str(c) for c in dict.fromkeys(data)]
    return ",".join("RETURNED" if name == "NONE" else name for name in names)


def _span(lo: int, count: int) -> str:
    return f"{lo}" if count == 1 else f"{lo}-{lo + count - 1}"


def _outcome(o: m.Outcome) -> str:
    where = f"batch={o.batch} {_span(o.lo, o.count)} attempt={o.attempt} grant={grant_name(o.grant)}"
    return f"[{where} {_causes(o.causes)}]"


_WORDS: dict[type, Callable[[Any], str]] = {
    m.Submit: lambda x: (
        f"key={x.key.hex()[:8]} number={x.number} first={x.first} count={x.count}"
        f"{' last' if x.last else ''}{' resend' if x.resend else ''}"
    ),
    m.Accepted: lambda x: f"key={x.key.hex()[:8]} number={x.number} job={x.job}",
    m.Refused: lambda x: f"key={x.key.hex()[:8]} number={x.number} {x.code}: {x.what}",
    m.Resolved: lambda x: f"job={x.job} {' '.join(_span(r.first, r.count) for r in x.ranges)}",
    m.Page: lambda x: (
        f"job={x.job} {' '.join(_span(r.first, r.count) for r in x.ranges)} more={x.more} total={x.total}"
    ),
    m.Grant: lambda x: " ".join(
        f"[grant={grant_name(i.grant)} {task_name(i.job, i.first)}+{i.count} batch={i.batch} attempt={i.attempt}]"
        for i in x.items
    ),
    m.Finished: lambda x: " ".join(map(_outcome, x.outcomes)),
    m.Kept: lambda x: " ".join(f"[grant={grant_name(g)} {_span(lo, count)}]" for g, lo, count in x.ranges),
    m.Beat: lambda x: "running=" + ",".join(f"{grant_name(g)}:{offset}" for g, offset in x.running),
    m.Hello: lambda x: f"{x.kind} held=" + ",".join(f"{grant_name(h.grant)}:{h.left.count(1)}" for h in x.held),
    m.Done: lambda x: f"bundle={x.bundle} {_outcome(x.outcome)}",
    m.Bundle: lambda x: f"bundle={x.bundle} {task_name(x.job, x.first)}+{x.count} attempt={x.attempt}",
    m.Kill: lambda x: f"bundle={x.bundle} lo={x.lo} count={x.count} {Cause(x.cause).name}",
    JobOpened: lambda r: f"job={r.job} key={r.key.hex()[:8]} name={r.name}",
    BatchAdmitted: lambda r: f"batch={r.batch} job={r.job} number={r.number} first={r.first} count={r.count}",
    OutcomeSettled: lambda r: (
        f"batch={r.batch} {_span(r.lo, r.count)} attempt={r.attempt} grant={grant_name(r.grant)} node={r.node} "
        + ",".join(TaskState(s).name for s in dict.fromkeys(r.states))
    ),
    AttemptFailed: lambda r: (
        f"batch={r.batch} {r.offset} attempt={r.attempt} grant={grant_name(r.grant)} node={r.node} "
        + Cause(r.cause).name
    ),
    BatchClosed: lambda r: f"batch={r.batch}",
    HoldChanged: lambda r: f"job={r.job} number={r.number} {'on hold' if r.on_hold else 'released'}",
    DurationsLearned: lambda r: f"socket={r.socket} code={r.code} size={r.size} completed={r.completed}",
}
