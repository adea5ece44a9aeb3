"""Stories: text files that tell a machine events, and list everything that it wants done after each, in order.

The format is explained in tests/stories/README.md. A story is read, told to the real machine, and written down
again; it holds when what was written is what was read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.limits import Limits

FOLDER = Path(__file__).parents[1] / "stories"
_EVENT = re.compile(r"at +(\d+\.\d+) +(?:(\S+(?: \d+)?): +)?(.*)")


class Words:
    """The words of an event: those that stand alone, and ``name=value``."""

    def __init__(self, text: str) -> None:
        parts = shlex.split(text)
        self.verb = parts[0]
        self.alone = [part for part in parts[1:] if "=" not in part]
        self._named = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
        self._asked: set[str] = set()

    def get(self, name: str, default: str = "") -> str:
        self._asked.add(name)
        return self._named.get(name, default)

    def number(self, name: str, default: float = 0) -> int:
        return int(self.get(name, str(int(default))))

    def check(self) -> None:
        """Every named word means something."""
        assert set(self._named) <= self._asked, f"{self.verb} does not take {set(self._named) - self._asked}"


class Teller:
    """One machine that stories are told to; a subclass knows its events and how its effects are written."""

    #: first word of the line that sets the scene
    scene = ""

    def __init__(self, words: str, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.machine: Any = None
        self.set_scene(words)

    def set_scene(self, words: str) -> None:
        raise AssertionError("a subclass sets the scene")

    def event(self, who: str, words: Words) -> list[Any]:
        """The events that a line stands for."""
        raise AssertionError("a subclass knows its events")

    def lines(self, out: Effects) -> list[str]:
        """Effects as lines of a story."""
        raise AssertionError("a subclass writes its effects")

    def tell(self, events: list[Any]) -> Effects:
        """Tell events at one time, as the loop does; no event: time has passed."""
        out = Effects()
        for event in events:
            self.machine.handle(event, self.now, out)
        self.machine.advance(self.now, out)
        return out

    def told(self, now: float, who: str, text: str) -> list[str]:
        """The lines that follow an event."""
        assert now >= self.now, f"time runs backwards at {now}"
        self.now = now
        if text == "time passes":
            return self.lines(self.tell([]))
        words = Words(text)
        events = self.event(who, words)
        words.check()
        return [*self.lines(self.tell(events)), *self.shown(words)]

    def shown(self, words: Words) -> list[str]:
        """What people are shown, where the event was their question."""
        return []


def tell(text: str, tellers: dict[str, Callable[[str, Limits], Teller]]) -> str:
    """The story with the effects that really follow."""
    written: list[str] = []
    limits: dict[str, Any] = {}
    teller: Teller | None = None
    for line in text.splitlines():
        if line.startswith(" "):
            continue  # effects are written anew
        event = _EVENT.fullmatch(line)
        if event:
            assert teller is not None, "a story sets its scene first"
            written.append(line)
            now, who, what = event.groups()
            try:
                written += [f"  {effect}" for effect in teller.told(float(now), who or "", what)]
            except (AssertionError, KeyError, ValueError, IndexError) as error:
                raise AssertionError(f"{line}\n  {type(error).__name__}: {error}") from error
        elif line.startswith("limits "):
            written.append(line)
            named = dict(word.split("=") for word in line.split()[1:])
            limits = {name: type(getattr(Limits(), name))(float(value)) for name, value in named.items()}
        else:
            written.append(line)
            kind = line.partition(" ")[0]
            if line and not line.startswith("#"):
                assert kind in tellers, f"{line!r} is neither an event nor a scene"
                teller = tellers[kind](line, Limits(**limits))
    return "\n".join(written).rstrip() + "\n"


def span(first: int, count: int, job: int) -> str:
    """Tasks as they are written: 1.0 or 1.0..4."""
    return f"{job}.{first}" if count == 1 else f"{job}.{first}..{first + count - 1}"


def read_span(text: str) -> tuple[int, int, int]:
    """(job, first index, count)."""
    job, _, rest = text.partition(".")
    first, _, last = rest.partition("..")
    return int(job), int(first), int(last or first) - int(first) + 1
