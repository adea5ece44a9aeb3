"""Options of a call: what may differ from call to call besides its arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pyfi_hpc.errors import UsageError
from pyfi_hpc.model import terms
from pyfi_hpc.model.states import AT_ONCE_MAX, OnFailure

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?")


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """How calls run. Compared by identity: calls are gathered when they share the object itself."""

    #: attempts after one that raised; attempts that the system lost are made again anyway
    retries: int = 0
    #: seconds, 0: none
    time_limit_s: float = 0.0
    #: how large each call is, in any measure of the user's; what took how long is learned apart for each power of two
    size: float = 0.0
    #: higher first
    priority: int = 0
    #: name of the job, for people
    name: str = ""
    #: what a failure inside a structure does to its siblings
    on_failure: OnFailure = OnFailure.FINISH
    #: how many tasks of the job may run at once, 0: any number; see ``at_most``
    at_once: int = 0
    #: whose share of the ranks they use; empty: what the setting ``project`` says
    project: str = ""
    #: may be ended for tasks of a higher priority, and are run again then
    preemptible: bool = False
    #: nothing of the job starts before it is released: ``Job.release``, `pyfi release`
    hold: bool = False
    #: what each task needs, as it travels: see model/terms.py
    terms: bytes = b""

    def at_most(self, count: int) -> Options:
        """The same for a job of which at most ``count`` tasks run at once; 0: any number.

        Raises
        ------
        UsageError
            More than can be counted.
        """
        if not 0 <= count <= AT_ONCE_MAX:
            fix = f"it is a whole number from 1 to {AT_ONCE_MAX}"
            raise UsageError(f"at most {count} tasks at once cannot be", fix=fix)
        return replace(self, at_once=count)

    def but(self, **changes: Any) -> Options:
        """The same with some values changed, each checked.

        Parameters
        ----------
        **changes
            ``retries``, ``time_limit`` (seconds, "90s", "5m", "1h30m" or Slurm's "1:00:00"), ``priority``,
            ``size`` (a hint of how large each call is), ``name``, ``on_failure`` ("finish" or "cancel"), ``project``,
            ``preemptible``, ``hold``, ``needs`` (text as of `--needs`), or what stands in it: ``cores``, ``threads``,
            ``memory``, ``gpus``, ``ranks``, ``resources``, ``labels``, ``exclusive``, ``spread``, ``launch``,
            ``otherwise``; see ``model.terms.make``.

        Raises
        ------
        UsageError
            An unknown option or a value that it cannot have.
        """
        values: dict[str, Any] = {}
        needs = {name: changes.pop(name) for name in _NEEDS if name in changes}
        if needs:
            changes["needs"] = needs
        for name, value in changes.items():
            check = _CHECKS.get(name)
            if check is None:
                raise UsageError(f"unknown option {name!r}", fix="the options are: " + ", ".join(_CHECKS))
            field, value = check(name, value)
            values[field] = value
        return replace(self, **values)


def duration_s(value: Any) -> float:
    """Seconds of a number, "90s", "5m", "1h30m", "1-12:00:00", "2:30:00" or "10:00" (as Slurm reads them).

    Raises
    ------
    UsageError
        Not a duration, or negative.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    text = str(value).strip().lower()
    if text and _PART.sub("", text) == "":
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    clock = _CLOCK.fullmatch(text)
    if clock and not isinstance(value, bool):
        return _slurm_time_s(clock)
    raise UsageError(
        f"{value!r} is not a duration", fix="write seconds, or text such as 90s, 5m, 1h30m, 1:00:00"
    )


def _slurm_time_s(clock: re.Match[str]) -> float:
    """Slurm: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    days, *rest = (int(part) if part is not None else None for part in clock.groups())
    parts = [part for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (parts + [0, 0])[:3]
        return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
    if len(parts) == 1:
        return parts[0] * 60.0
    hours, minutes, seconds = ([0] + parts)[-3:]
    return (hours * 60 + minutes) * 60.0 + seconds


def _whole(lo: int, hi: int) -> Any:
    def check(name: str, value: Any) -> tuple[str, int]:
        if isinstance(value, bool) or not isinstance(value, int) or not lo <= value <= hi:
            raise UsageError(f"{name} cannot be {value!r}", fix=f"it is a whole number from {lo} to {hi}")
        return name, value

    return check


def _text(name: str, value: Any) -> tuple[str, str]:
    if not isinstance(value, str) or len(value) > 200:
        raise UsageError(f"{name} cannot be {value!r}", fix="it is text of at most 200 characters")
    return name, value


def _flag(name: str, value: Any) -> tuple[str, bool]:
    if not isinstance(value, bool):
        raise UsageError(f"{name} cannot be {value!r}", fix="it is True or False")
    return name, value


def _time(_name: str, value: Any) -> tuple[str, float]:
    return "time_limit_s", 0.0 if value is None else duration_s(value)


def _size(name: str, value: Any) -> tuple[str, float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e18:
        return name, float(value)
    raise UsageError(f"{name} cannot be {value!r}", fix="it is a number from 0 to 1e18: bytes, cells, whatever tells")


def _failure(name: str, value: Any) -> tuple[str, OnFailure]:
    try:
        return name, OnFailure[str(value).upper()] if not isinstance(value, OnFailure) else value
    except KeyError:
        raise UsageError(f"{name} cannot be {value!r}", fix="it is 'finish' or 'cancel'") from None


def _needs(name: str, value: Any) -> tuple[str, bytes]:
    try:
        return "terms", terms.encode(terms.make(**value) if isinstance(value, dict) else terms.read(str(value)))
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        fix = "such as cores=4, gpus=0.5, memory='2G', ranks=8, resources={'license': 1}, labels=['bigmem']"
        raise UsageError(f"{name}: {error}", fix=fix) from None


#: options that together say what a call needs
_NEEDS = (
    "ranks", "cores", "threads", "memory", "gpus", "resources", "labels", "exclusive", "spread", "launch", "otherwise"
)  # fmt: skip

_CHECKS = {
    "retries": _whole(0, 1000),
    "time_limit": _time,
    "size": _size,
    "priority": _whole(-(1 << 20), 1 << 20),
    "name": _text,
    "on_failure": _failure,
    "project": _text,
    "preemptible": _flag,
    "hold": _flag,
    "needs": _needs,
}

DEFAULT = Options()
