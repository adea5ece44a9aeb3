"""Values that people give for fields: converted to the column's type, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.models import WORDS
from pyfi_hpc.model import terms


def checked(kind: str, column: sa.Column[Any], value: Any) -> Any:
    """The value for a column of an object.

    Raises
    ------
    UsageError
        It has the wrong type, is none of the words that the column takes, or cannot be a name.
    """
    wanted = column.type.python_type
    words = WORDS.get(column.table.name, {}).get(column.name)
    try:
        converted = _CONVERT[wanted](value)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise UsageError(
            f"{column.name} cannot be {value!r}", where=kind, fix=f"give a value of type {wanted.__name__}"
        ) from None
    if isinstance(converted, str) and ("\0" in converted or (column.name == "name" and not _plain(converted))):
        raise UsageError(f"{value!r} cannot be a {column.name}", where=kind, fix="use letters, digits and ._-/:@+")
    if column.name == "needs":
        _check_needs(kind, converted)
    if words and converted not in words:
        match = [word for word in words if word.lower() == str(converted).lower()]
        if not match:
            raise UsageError(f"{column.name} cannot be {value!r}", where=kind, fix="use " + " or ".join(words))
        converted = match[0]
    return converted


def _check_needs(kind: str, text: str) -> None:
    try:
        terms.read(text)
    except ValueError as error:
        fix = "write such as 'cores=4 gpus=0.5 memory=2G license:1 label=x', or '' for one core"
        raise UsageError(str(error), where=kind, fix=fix) from None


def _plain(name: str) -> bool:
    """Names go into command lines, tables and patterns."""
    return 0 < len(name) <= 200 and name.isprintable() and name[0] not in "-*" and not set(name) & set(" \t'\"`$\\")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }[str(value).lower()]


def _integer(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise ValueError(value)
    number = int(value)
    if not -(2**31) <= number < 2**31:
        raise ValueError(value)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return datetime.fromtimestamp(float(value), UTC)


_CONVERT: dict[type, Callable[[Any], Any]] = {
    bool: _boolean, int: _integer, float: float, str: _text, datetime: _time, dict: dict,
}  # fmt: skip
