"""What a value is on the wire: down to what msgpack knows, and up again to the same types.

msgpack knows None, bool, int, float, str, bytes, list and dict. Everything else of the table at the end is an
Ext; what is not in the table is refused with its path.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from . import arrays
from .refusal import DEPTH_MAX, NotSendable

Reference = Callable[[Any], "int | None"]

PLAIN = frozenset({type(None), bool, int, float, str, bytes})
encode = msgspec.msgpack.Encoder().encode


class Lowering:
    """Replaces what msgpack would confuse by Ext; returns the same object where there is nothing to do."""

    def __init__(self, slots: Reference | None) -> None:
        self._given_slots = self._slots = slots
        self._depth = 0
        self.careful = False

    def restart_carefully(self) -> None:
        self.careful = True
        self._depth = 0
        self._slots = self._given_slots

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        return [self.named(f"argument {i}", value) for i, value in enumerate(args)]

    def keywords(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {k: self.named(f"keyword {k!r}", v) for k, v in kwargs.items()}

    def named(self, name: str, value: Any) -> Any:
        try:
            return self.value(value)
        except NotSendable as error:
            error.steps.append(name)
            raise

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return self._careful(kind, value) if self.careful else value
        if kind is list:
            return self._items(value)
        if kind is dict:
            return self._map(value)
        special = _BY_TYPE.get(kind)
        if special is not None:
            return Ext(special[0], special[1](self, value))
        if self._slots is not None and (slot := self._slots(value)) is not None:
            return Ext(_REF, _U32.pack(slot))
        if "numpy" in sys.modules and (found := arrays.lower(kind, value)) is not None:
            return found
        raise NotSendable(f"a value of type {_type_name(kind)} cannot be sent")

    def _items(self, values: Sequence[Any]) -> Sequence[Any]:
        if not self.careful and PLAIN.issuperset(map(type, values)):
            return values
        self._enter()
        lowered: list[Any] = []
        try:
            for value in values:
                lowered.append(self.value(value))
        except NotSendable as error:
            error.steps.append(f"[{len(lowered)}]")
            raise
        self._depth -= 1
        return lowered

    def _map(self, values: dict[Any, Any]) -> Any:
        plain_keys = not self.careful and PLAIN.issuperset(map(type, values))
        if plain_keys and PLAIN.issuperset(map(type, values.values())):
            return values
        self._enter()
        key: Any = None
        step = ""
        flat: list[Any] = []
        try:
            for key, value in values.items():
                if not plain_keys:
                    step = " key "
                    flat.append(self._key(key))
                step = ""
                flat.append(self.value(value))
        except NotSendable as error:
            error.steps.append(f"{step}{_shown(key)}" if step else f"[{_shown(key)}]")
            raise
        self._depth -= 1
        if plain_keys:
            return dict(zip(values, flat, strict=True))
        return Ext(_DICT, encode(flat))

    def _key(self, key: Any) -> Any:
        slots, self._slots = self._slots, None  # a result is not known to be hashable
        try:
            return self.value(key)
        finally:
            self._slots = slots

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise NotSendable(f"nested deeper than {DEPTH_MAX} levels, or contains itself")

    def _careful(self, kind: type, value: Any) -> Any:
        if kind is int and not -(2**63) <= value < 2**64:
            return Ext(_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        if kind is str and not value.isascii():
            raw = value.encode("utf-8", "surrogatepass")
            return Ext(_TEXT, raw)
        return value

    def pack_tuple(self, value: tuple[Any, ...]) -> bytes:
        return encode(self._items(value))

    def pack_set(self, value: set[Any] | frozenset[Any]) -> bytes:
        slots, self._slots = self._slots, None  # a result is not known to be hashable
        try:
            return encode(self._items(list(value)))
        except NotSendable as error:
            error.steps[-1] = "{...}"  # a set has no positions
            raise
        finally:
            self._slots = slots


def _shown(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:  # an int of thousands of digits, or somebody's own __repr__
        text = f"<{_type_name(type(key))}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def decode_with(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"malformed payload: {error}") from None
    except RecursionError:
        raise ValueError("malformed payload: nested too deep") from None
    except (
        TypeError,
        AttributeError,
        KeyError,
        IndexError,
        OverflowError,
        ArithmeticError,
        MemoryError,
        struct.error,
    ) as error:
        raise ValueError(f"malformed payload: {type(error).__name__}: {error}") from None


class Raising:
    """Ext back to values; ``inputs`` are the encoded results that references stand for."""

    def __init__(self, inputs: Sequence[bytes] = ()) -> None:
        self._inputs = inputs
        self._values: dict[int, Any] = {}
        self.decode = msgspec.msgpack.Decoder(ext_hook=self.hook).decode

    def hook(self, code: int, data: memoryview) -> Any:
        if code == _REF:
            (slot,) = _U32.unpack(data)
            return self._input(slot)
        special = _BY_CODE.get(code)
        if special is None:
            raise ValueError(f"malformed payload: unknown kind of value {code}")
        return special(self.decode, data)

    def _input(self, slot: int) -> Any:
        # the same result twice in one call is the same object twice, as in a plain Python call
        if slot not in self._values:
            if slot >= len(self._inputs):
                raise ValueError(f"the result for slot {slot} of the call is missing")
            self._values[slot] = decode_with(self._inputs[slot], plain_decode)
        return self._values[slot]


def _raise_dict(decode: Callable[[Any], Any], data: memoryview) -> dict[Any, Any]:
    flat = decode(data)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _lower_zone(zone: Any) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        plain = timezone(offset).tzname(None) == name
        return [offset.days, offset.seconds, offset.microseconds, None if plain else name]
    if type(zone) is ZoneInfo and zone.key:
        return zone.key
    raise NotSendable(
        f"a time zone of type {_type_name(type(zone))} cannot be sent; use timezone or ZoneInfo"
    )


def _raise_zone(zone: Any) -> Any:
    if zone is None:
        return None
    if type(zone) is str:
        return ZoneInfo(zone)
    days, seconds, microseconds, name = zone
    offset = timedelta(days, seconds, microseconds)
    if name is None:
        return timezone(offset) if offset else UTC
    return timezone(offset, name)


def _pack_datetime(_: Lowering, v: datetime) -> bytes:
    parts = (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, _lower_zone(v.tzinfo))
    return encode(parts)


def _raise_datetime(decode: Callable[[Any], Any], data: memoryview) -> datetime:
    *parts, fold, zone = decode(data)
    return datetime(*parts).replace(tzinfo=_raise_zone(zone), fold=fold)


def _pack_time(_: Lowering, v: time) -> bytes:
    return encode((v.hour, v.minute, v.second, v.microsecond, v.fold, _lower_zone(v.tzinfo)))


def _raise_time(decode: Callable[[Any], Any], data: memoryview) -> time:
    *parts, fold, zone = decode(data)
    return time(*parts).replace(tzinfo=_raise_zone(zone), fold=fold)


def _path_bytes(_: Lowering, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "surrogatepass")


def _path_maker(kind: type) -> Callable[[Callable[[Any], Any], memoryview], Any]:
    return lambda _, data: kind(_text(data))


# --- the table of kinds ---------------------------------------------------------------------------------

_U32 = struct.Struct("<I")
_2F64 = struct.Struct("<dd")

(_REF, _BIGINT, _TEXT, _DICT, _, _, _TUPLE, _SET, _FROZENSET, _COMPLEX, _DATETIME, _DATE, _TIME,
 _DELTA, _DECIMAL, _UUID, _BYTEARRAY) = range(1, 18)  # fmt: skip
_PATHS = {20: PurePosixPath, 21: PosixPath, 22: PureWindowsPath}

_BY_TYPE: dict[type, tuple[int, Callable[[Lowering, Any], bytes]]] = {
    tuple: (_TUPLE, Lowering.pack_tuple),
    set: (_SET, Lowering.pack_set),
    frozenset: (_FROZENSET, Lowering.pack_set),
    complex: (_COMPLEX, lambda _, v: _2F64.pack(v.real, v.imag)),
    datetime: (_DATETIME, _pack_datetime),
    date: (_DATE, lambda _, v: _U32.pack(v.toordinal())),
    time: (_TIME, _pack_time),
    timedelta: (_DELTA, lambda _, v: encode((v.days, v.seconds, v.microseconds))),
    Decimal: (_DECIMAL, lambda _, v: str(v).encode()),
    UUID: (_UUID, lambda _, v: v.bytes),
    bytearray: (_BYTEARRAY, lambda _, v: bytes(v)),
    **{kind: (code, _path_bytes) for code, kind in _PATHS.items()},
}

_BY_CODE: dict[int, Callable[[Callable[[Any], Any], memoryview], Any]] = {
    _BIGINT: lambda _, d: int.from_bytes(d, "little", signed=True),
    _TEXT: lambda _, d: _text(d),
    _DICT: _raise_dict,
    arrays.ARRAY: arrays.raise_array,
    arrays.SCALAR: arrays.raise_scalar,
    _TUPLE: lambda decode, d: tuple(_list(decode(d))),
    _SET: lambda decode, d: set(_list(decode(d))),
    _FROZENSET: lambda decode, d: frozenset(_list(decode(d))),
    _COMPLEX: lambda _, d: complex(*_2F64.unpack(d)),
    _DATETIME: _raise_datetime,
    _DATE: lambda _, d: date.fromordinal(*_U32.unpack(d)),
    _TIME: _raise_time,
    _DELTA: lambda decode, d: timedelta(*decode(d)),
    _DECIMAL: lambda _, d: Decimal(str(d, "ascii")),
    _UUID: lambda _, d: UUID(bytes=bytes(d)),
    _BYTEARRAY: lambda _, d: bytearray(d),
    **{code: _path_maker(kind) for code, kind in _PATHS.items()},
}


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("malformed payload: not a list of elements")
    return value


plain_decode = Raising().decode
