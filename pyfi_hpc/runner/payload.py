"""Arguments, results and errors as bytes, and back with exactly the same types.

Stands on the ground: the standard library, msgspec, and numpy where the user has it. The client imports this
file; ``child.py`` loads it by its path inside the user's own environment. Nothing of ours may be imported.

A value is msgpack. What msgpack cannot tell apart (tuple, set, dates, Decimal, arrays ...) is an Ext:

    call    [arguments, keywords]             value   anything of the table ``_SPECIAL`` at the end
    error   [module, type, message, traceback, value of the exception's args or nil]

Everything else is refused with the path inside the argument: no pickles, and no silent change of a type.
Cost: about 1 us for a call with plain arguments; a list of plain values costs 20 ns per element.
"""

from __future__ import annotations

import builtins
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

#: lists, dicts, tuples and sets inside each other; deeper is refused on both sides
DEPTH_MAX = 100
#: message and traceback of an error, each; the middle of a longer one is left out
ERROR_TEXT_MAX = 32 << 10

Reference = Callable[[Any], "int | None"]


class NotSendable(ValueError):
    """A value cannot be sent; ``where`` is its path inside what was given, ``what`` the reason."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.steps: list[str] = []

    @property
    def where(self) -> str:
        return "".join(reversed(self.steps))

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.steps else self.what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,), {"what": self.what, "steps": self.steps}


# --- calls ----------------------------------------------------------------------------------------------


def encode_call(
    args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, slots: Reference | None = None
) -> bytes:
    """Encode the arguments of one call.

    Parameters
    ----------
    slots : callable, optional
        Told each object that is not a plain value; returns the slot number if it stands for another task's
        result, else None. Found at any depth of lists, tuples and dict values, not in sets and keys.

    Raises
    ------
    NotSendable
        A ``ValueError`` whose text starts with the path: ``argument 2['x'][0]: ...``, ``keyword 'opts'.a``.
    """
    kwargs = kwargs or {}
    if _PLAIN.issuperset(map(type, args)) and _PLAIN.issuperset(map(type, kwargs.values())):
        try:
            return _encode((args, kwargs))
        except (OverflowError, UnicodeEncodeError):
            pass
    lower = _Lowering(slots)
    return _finish(lower, lambda: (lower.arguments(args), lower.keywords(kwargs)))


def decode_call(data: bytes, inputs: Sequence[bytes] = ()) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call; slot ``n`` is replaced by the value encoded in ``inputs[n]``.

    Raises
    ------
    ValueError
        The bytes are not a call, or an array is there and numpy is not.
    """
    raised = _Raising(inputs) if inputs else None
    call = _decode(data, raised.decode if raised else _plain_decode)
    if type(call) is list and len(call) == 2:
        args, kwargs = call
        if type(args) is list and type(kwargs) is dict and all(type(k) is str for k in kwargs):
            return args, kwargs
    raise ValueError("the payload is not the arguments of a call")


def encode_value(value: Any, name: str = "result", slots: Reference | None = None) -> bytes:
    """Encode one value; ``name`` begins the path in the error.

    Raises
    ------
    NotSendable
    """
    if type(value) in _PLAIN:
        try:
            return _encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass
    lower = _Lowering(slots)
    return _finish(lower, lambda: lower.named(name, value))


def decode_value(data: bytes) -> Any:
    """The value; numpy arrays are writable copies.

    Raises
    ------
    ValueError
    """
    return _decode(data, _plain_decode)


# --- errors ---------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """An exception that was raised elsewhere, in text."""

    module: str
    type_name: str
    message: str
    traceback_text: str
    args: bytes | None


class RemoteTraceback(Exception):
    """The traceback on the rank, as the cause of the exception that is raised again here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


def encode_error(error: BaseException, skip: int = 0) -> bytes:
    """Encode an exception: type, message, traceback, and its args if they can be sent. Never raises.

    Parameters
    ----------
    skip : int
        So many outermost frames of the traceback are the caller's own and are left out.
    """
    kind = type(error)
    trace = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None else None
    try:
        text = "".join(traceback.format_exception(kind, error, trace))
    except BaseException as problem:  # an exception's own __str__ or __cause__ may do anything
        text = f"(the traceback cannot be shown: {type(problem).__name__})"
    return encode_failure(kind.__module__, kind.__qualname__, _message(error), text, _sendable_args(error))


def encode_failure(
    module: str, type_name: str, message: str, traceback_text: str = "", args: bytes | None = None
) -> bytes:
    """Encode an error that is no exception of this process: a crash, a time limit."""
    texts = (module, type_name, _shortened(message), _shortened(traceback_text))
    return _encode((*(str(t).encode("utf-8", "backslashreplace").decode() for t in texts), args))


def decode_error(data: bytes) -> Failure:
    """Raises ValueError where the bytes are not an error."""
    try:
        return _failure_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ValueError(f"malformed error: {problem}") from None


def rebuild_error(failure: Failure) -> Exception | None:
    """A builtin exception as itself, with the remote traceback as its cause; None if it is not one.

    SystemExit and its like are not rebuilt: raised from a future they would end the caller.
    """
    kind = getattr(builtins, failure.type_name, None) if failure.module == "builtins" else None
    if not isinstance(kind, type) or not issubclass(kind, Exception) or failure.args is None:
        return None
    try:
        args = decode_value(failure.args)
        error = kind(*args)
    except Exception:  # the constructor wants something else: its text and type still travel
        return None
    if failure.traceback_text:
        error.__cause__ = RemoteTraceback(failure.traceback_text)
    return error


def _sendable_args(error: BaseException) -> bytes | None:
    args = error.args
    if isinstance(error, OSError) and error.filename is not None and len(args) == 2:
        args = (*args, error.filename, None, error.filename2)
    try:
        data = encode_value(args)
    except Exception:
        return None
    return data if len(data) <= ERROR_TEXT_MAX else None


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as problem:
        return f"(its text cannot be made: {type(problem).__name__})"


def _shortened(text: str) -> str:
    if len(text) <= ERROR_TEXT_MAX:
        return text
    half = ERROR_TEXT_MAX // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


# --- down: values that msgpack knows --------------------------------------------------------------------

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_encode = msgspec.msgpack.Encoder().encode


def _finish(lower: _Lowering, make: Callable[[], Any]) -> bytes:
    try:
        return _encode(make())
    except (OverflowError, UnicodeEncodeError):
        # rare: an int beyond 64 bits or a lone surrogate (a file name) somewhere; look at each value
        lower.restart_carefully()
        return _encode(make())


class _Lowering:
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
        if kind in _PLAIN:
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
        if "numpy" in sys.modules and (found := _lower_numpy(kind, value)) is not None:
            return found
        raise NotSendable(f"a value of type {_type_name(kind)} cannot be sent")

    def _items(self, values: Sequence[Any]) -> Sequence[Any]:
        if not self.careful and _PLAIN.issuperset(map(type, values)):
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
        plain_keys = not self.careful and _PLAIN.issuperset(map(type, values))
        if plain_keys and _PLAIN.issuperset(map(type, values.values())):
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
        return Ext(_DICT, _encode(flat))

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
        return _encode(self._items(value))

    def pack_set(self, value: set[Any] | frozenset[Any]) -> bytes:
        slots, self._slots = self._slots, None  # a result is not known to be hashable
        try:
            return _encode(self._items(list(value)))
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


# --- up: back to the same types -------------------------------------------------------------------------


def _decode(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"malformed payload: {error}") from None
    except RecursionError:
        raise ValueError("malformed payload: nested too deep") from None
    except (TypeError, KeyError, IndexError, OverflowError, ArithmeticError, MemoryError, struct.error) as error:
        raise ValueError(f"malformed payload: {type(error).__name__}: {error}") from None


class _Raising:
    """Ext back to values; ``inputs`` are the encoded results that references stand for."""

    def __init__(self, inputs: Sequence[bytes] = ()) -> None:
        self._inputs = inputs
        self._values: dict[int, Any] = {}
        self.decode = msgspec.msgpack.Decoder(ext_hook=self._hook).decode

    def _hook(self, code: int, data: memoryview) -> Any:
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
            self._values[slot] = decode_value(self._inputs[slot])
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
    raise NotSendable(f"a time zone of type {_type_name(type(zone))} cannot be sent; use timezone or ZoneInfo")


def _raise_zone(zone: Any) -> Any:
    if zone is None:
        return None
    if type(zone) is str:
        return ZoneInfo(zone)
    days, seconds, microseconds, name = zone
    offset = timedelta(days, seconds, microseconds)
    if name is None:
        return timezone(offset) if offset else timezone.utc
    return timezone(offset, name)


def _pack_datetime(_: _Lowering, v: datetime) -> bytes:
    parts = (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, _lower_zone(v.tzinfo))
    return _encode(parts)


def _raise_datetime(decode: Callable[[Any], Any], data: memoryview) -> datetime:
    *parts, fold, zone = decode(data)
    return datetime(*parts, tzinfo=_raise_zone(zone), fold=fold)


def _pack_time(_: _Lowering, v: time) -> bytes:
    return _encode((v.hour, v.minute, v.second, v.microsecond, v.fold, _lower_zone(v.tzinfo)))


def _raise_time(decode: Callable[[Any], Any], data: memoryview) -> time:
    *parts, fold, zone = decode(data)
    return time(*parts, tzinfo=_raise_zone(zone), fold=fold)


def _path_bytes(_: _Lowering, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "surrogatepass")


# --- numpy: raw buffers, never objects ------------------------------------------------------------------


def _lower_numpy(kind: type, value: Any) -> Ext | None:
    np = sys.modules["numpy"]
    if kind is np.ndarray:
        header = _encode([_lower_dtype(np, value.dtype), value.shape, _order(value)])
        return Ext(_ARRAY, b"".join((_U32.pack(len(header)), header, _raw(np, value))))
    if not issubclass(kind, np.generic):
        return None
    if kind is np.str_:
        return Ext(_SCALAR, _encode(["U", value.encode("utf-8", "surrogatepass")]))
    if kind is np.bytes_:
        return Ext(_SCALAR, _encode(["S", bytes(value)]))
    if kind is not value.dtype.type:
        return None
    return Ext(_SCALAR, _encode([_lower_dtype(np, value.dtype), value.tobytes()]))


def _order(array: Any) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _raw(np: Any, array: Any) -> Any:
    """The elements' bytes in the order of ``_order``, without a copy where they lie together already."""
    if _order(array) == "F":
        array = array.T
    elif not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return memoryview(array.reshape(-1).view(np.uint8)) if array.size else b""


def _lower_dtype(np: Any, dtype: Any) -> Any:
    """A dtype as data: its text, ``[base, shape]``, or ``[names, dtypes, offsets, itemsize, aligned]``."""
    if dtype.hasobject:
        raise NotSendable(f"a numpy array of dtype {dtype} holds Python objects and cannot be sent")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_lower_dtype(np, base), list(shape)]
    if dtype.names is not None and dtype.itemsize:
        fields = [dtype.fields[name] for name in dtype.names]
        if all(len(field) == 2 for field in fields):
            inner = [_lower_dtype(np, field[0]) for field in fields]
            offsets = [field[1] for field in fields]
            return [list(dtype.names), inner, offsets, dtype.itemsize, dtype.isalignedstruct]
    elif dtype.itemsize and np.dtype(dtype.str) == dtype:
        return dtype.str
    raise NotSendable(f"a numpy array of dtype {dtype} cannot be sent")


def _raise_dtype(np: Any, spec: Any, depth: int = 0) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError("malformed payload: nested too deep")
    if type(spec) is list and len(spec) == 2:
        return np.dtype((_raise_dtype(np, spec[0], depth + 1), tuple(spec[1])))
    if type(spec) is list:
        names, inner, offsets, itemsize, aligned = spec
        formats = [_raise_dtype(np, item, depth + 1) for item in inner]
        parts = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
        return np.dtype(parts, align=bool(aligned))
    if type(spec) is not str or len(spec) > 64 or "," in spec:
        raise ValueError("malformed payload: not a dtype")
    dtype = np.dtype(spec)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"malformed payload: dtype {spec!r} is not allowed")
    return dtype


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise ValueError("a numpy array came and numpy is not installed in this environment") from None
    return numpy


def _raise_array(decode: Callable[[Any], Any], data: memoryview) -> Any:
    np = _numpy()
    (length,) = _U32.unpack_from(data)
    spec, shape, order = decode(data[4 : 4 + length])
    dtype = _raise_dtype(np, spec)
    raw = data[4 + length :]
    size = 1
    for extent in shape:
        if type(extent) is not int or extent < 0:
            raise ValueError("malformed payload: not a shape")
        size *= extent
    if size * dtype.itemsize != len(raw) or order not in ("C", "F"):
        raise ValueError("malformed payload: an array whose bytes do not match its shape")
    if not size:
        return np.empty(tuple(shape), dtype, order=order)
    flat = np.frombuffer(raw, np.uint8).copy().view(dtype)
    # flat is one-dimensional in elements, also where the dtype has fields; reshape copies nothing
    return flat.reshape(tuple(shape), order=order)


def _raise_scalar(decode: Callable[[Any], Any], data: memoryview) -> Any:
    np = _numpy()
    spec, raw = decode(data)
    if spec == "U":
        return np.str_(raw.decode("utf-8", "surrogatepass"))
    if spec == "S":
        return np.bytes_(raw)
    dtype = _raise_dtype(np, spec)
    if dtype.subdtype is not None or len(raw) != dtype.itemsize:
        raise ValueError("malformed payload: a scalar whose bytes do not match its type")
    return np.frombuffer(raw, np.uint8).copy().view(dtype)[0]


# --- the table of kinds ---------------------------------------------------------------------------------

_U32 = struct.Struct("<I")
_2F64 = struct.Struct("<dd")

(_REF, _BIGINT, _TEXT, _DICT, _ARRAY, _SCALAR, _TUPLE, _SET, _FROZENSET, _COMPLEX, _DATETIME, _DATE, _TIME,
 _DELTA, _DECIMAL, _UUID, _BYTEARRAY) = range(1, 18)  # fmt: skip
_PATHS = {20: PurePosixPath, 21: PosixPath, 22: PureWindowsPath, 23: WindowsPath}

_BY_TYPE: dict[type, tuple[int, Callable[[_Lowering, Any], bytes]]] = {
    tuple: (_TUPLE, _Lowering.pack_tuple),
    set: (_SET, _Lowering.pack_set),
    frozenset: (_FROZENSET, _Lowering.pack_set),
    complex: (_COMPLEX, lambda _, v: _2F64.pack(v.real, v.imag)),
    datetime: (_DATETIME, _pack_datetime),
    date: (_DATE, lambda _, v: _U32.pack(v.toordinal())),
    time: (_TIME, _pack_time),
    timedelta: (_DELTA, lambda _, v: _encode((v.days, v.seconds, v.microseconds))),
    Decimal: (_DECIMAL, lambda _, v: str(v).encode()),
    UUID: (_UUID, lambda _, v: v.bytes),
    bytearray: (_BYTEARRAY, lambda _, v: bytes(v)),
    **{kind: (code, _path_bytes) for code, kind in _PATHS.items()},
}

_BY_CODE: dict[int, Callable[[Callable[[Any], Any], memoryview], Any]] = {
    _BIGINT: lambda _, d: int.from_bytes(d, "little", signed=True),
    _TEXT: lambda _, d: _text(d),
    _DICT: _raise_dict,
    _ARRAY: _raise_array,
    _SCALAR: _raise_scalar,
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
    **{code: (lambda _, d, kind=kind: kind(_text(d))) for code, kind in _PATHS.items()},
}


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("malformed payload: not a list of elements")
    return value


_failure_decoder = msgspec.msgpack.Decoder(Failure)
_plain_decode = _Raising().decode
