"""Arguments of a call as bytes, and the futures among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyfi_hpc.client.calls import Future
from pyfi_hpc.errors import TooLarge, Unserialisable, UsageError
from pyfi_hpc.runner.payload import NotSendable, encode_call, encode_value


class Slots:
    """Numbers the futures among the arguments of one call, in the order in which they are found."""

    __slots__ = ("_slots", "session", "needs")

    def __init__(self, session: object) -> None:
        self.session = session
        self.needs: list[Future] = []
        self._slots: dict[int, int] = {}

    def __call__(self, value: Any) -> int | None:
        if not isinstance(value, Future):
            return None
        if value._session is not self.session:
            raise UsageError(
                "a future of another instance or process is among the arguments",
                fix="wait for its value with .result() and pass that",
            )
        slot = self._slots.get(id(value))
        if slot is None:
            slot = self._slots[id(value)] = len(self.needs)
            self.needs.append(value)
        return slot


def encode_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], slots: Any, bytes_max: int, whose: str
) -> bytes:
    """Encode one call's arguments. Cost: about 1 us for plain values.

    Raises
    ------
    Unserialisable
        A value of a kind that does not travel; names the path inside the argument.
    TooLarge
        More than ``bytes_max`` bytes; names the largest argument.
    """
    try:
        payload = encode_call(args, kwargs, slots)
    except NotSendable as error:
        raise unserialisable(error, whose) from None
    if len(payload) > bytes_max:
        raise _too_large(args, kwargs, slots, len(payload), bytes_max, whose)
    return payload


def unserialisable(error: NotSendable, whose: str) -> Unserialisable:
    return Unserialisable(
        str(error), where=whose,
        fix="send numbers, text, bytes, lists, tuples, dicts, sets, dates, numpy arrays, or a path to a file",
    )  # fmt: skip


def _too_large(
    args: Sequence[Any], kwargs: Mapping[str, Any], slots: Any, size: int, bytes_max: int, whose: str
) -> TooLarge:
    sizes = [(len(encode_value(value, slots=slots)), f"argument {i}") for i, value in enumerate(args)]
    sizes += [(len(encode_value(value, slots=slots)), f"keyword {name!r}") for name, value in kwargs.items()]
    largest, name = max(sizes)
    return TooLarge(
        f"{name} takes {largest / 1e6:.1f} MB; a call may take {bytes_max / 1e6:.1f} MB in all, "
        f"this one takes {size / 1e6:.1f}",
        where=whose, fix="write it to a file on a shared filesystem and pass the path",
    )  # fmt: skip
