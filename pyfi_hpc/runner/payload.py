"""Arguments, results and errors as bytes, and back with exactly the same types.

Stands on the ground with the files beside it: the standard library, msgspec, and numpy where the user has it.
The client imports it; ``child.py`` loads it by its path inside the user's own environment.

A value is msgpack. What msgpack cannot tell apart (tuple, set, dates, Decimal, arrays ...) is an Ext:

    call    [arguments, keywords]             value   anything of the table in ``values.py``
    error   [module, type, message, traceback, value of the exception's args or nil]

Everything else is refused with the path inside the argument: no pickles, and no silent change of a type.
Cost: about 1 us for a call with plain arguments; a list of plain values costs 20 ns per element.
"""

from __future__ import annotations

import builtins
import struct
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .refusal import DEPTH_MAX, NotSendable
from .values import PLAIN, Lowering, Raising, Reference, decode_with, encode, plain_decode

__all__ = [
    "DEPTH_MAX", "Failure", "NotSendable", "RemoteTraceback", "decode_call", "decode_error", "decode_plain_call",
    "decode_value", "decode_values", "encode_call", "encode_error", "encode_failure", "encode_plain_call",
    "encode_value", "rebuild_error",
]  # fmt: skip

#: message and traceback of an error, each; the middle of a longer one is left out
ERROR_TEXT_MAX = 32 << 10


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
    plain = encode_plain_call(args, kwargs)
    if plain is not None:
        return plain
    lower = Lowering(slots)
    return _finish(lower, lambda: (lower.arguments(args), lower.keywords(kwargs)))


def encode_plain_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes | None:
    """As ``encode_call``, half a microsecond; None where there is more to do than to encode plain values."""
    if PLAIN.issuperset(map(type, args)) and PLAIN.issuperset(map(type, kwargs.values())):
        try:
            return encode((args, kwargs))
        except (OverflowError, UnicodeEncodeError):
            pass
    return None


def decode_call(data: bytes, inputs: Sequence[bytes] = ()) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call; slot ``n`` is replaced by the value encoded in ``inputs[n]``.

    Raises
    ------
    ValueError
        The bytes are not a call, or an array is there and numpy is not.
    """
    raised = Raising(inputs) if inputs else None
    call = decode_with(data, raised.decode if raised else plain_decode)
    if type(call) is list and len(call) == 2:
        args, kwargs = call
        if type(args) is list and type(kwargs) is dict and all(type(k) is str for k in kwargs):
            return args, kwargs
    raise ValueError("the payload is not the arguments of a call")


def decode_plain_call(data: bytes) -> tuple[list[Any], dict[str, Any]]:
    """As ``decode_call`` without inputs, three times as fast where nothing is wrong."""
    try:
        return _call_decoder.decode(data)
    except Exception:
        return decode_call(data)


def encode_value(value: Any, name: str = "result", slots: Reference | None = None) -> bytes:
    """Encode one value; ``name`` begins the path in the error.

    Raises
    ------
    NotSendable
    """
    if type(value) in PLAIN:
        try:
            return encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass
    lower = Lowering(slots)
    return _finish(lower, lambda: lower.named(name, value))


def decode_value(data: bytes) -> Any:
    """The value; numpy arrays are writable copies.

    Raises
    ------
    ValueError
    """
    return decode_with(data, plain_decode)


def decode_values(data: bytes, count: int) -> list[Any]:
    """So many values that lie behind each other; a tenth of what they cost one by one.

    Raises
    ------
    ValueError
    """
    return decode_with(_ARRAY.pack(0xDD, count) + data, plain_decode)  # type: ignore[no-any-return]


def _finish(lower: Lowering, make: Callable[[], Any]) -> bytes:
    try:
        return encode(make())
    except (OverflowError, UnicodeEncodeError):
        # rare: an int beyond 64 bits or a lone surrogate (a file name) somewhere; look at each value
        lower.restart_carefully()
        return encode(make())


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
    return encode((*(str(t).encode("utf-8", "backslashreplace").decode() for t in texts), args))


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


_call_decoder = msgspec.msgpack.Decoder(tuple[list[Any], dict[str, Any]], ext_hook=Raising().hook)
#: the head of a msgpack array
_ARRAY = struct.Struct(">BI")
_failure_decoder = msgspec.msgpack.Decoder(Failure)
