"""numpy arrays and scalars as raw buffers with their dtype; never objects.

An array is the length of a header, the header (msgpack: dtype, shape, order), and the elements' bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from .refusal import DEPTH_MAX, NotSendable

ARRAY, SCALAR = 5, 6
_U32 = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


def lower(kind: type, value: Any) -> Ext | None:
    """A numpy array or scalar as Ext; None for anything else. numpy must be imported already."""
    np = sys.modules["numpy"]
    if kind is np.ndarray:
        header = _encode([_lower_dtype(np, value.dtype), value.shape, _order(value)])
        return Ext(ARRAY, b"".join((_U32.pack(len(header)), header, _raw(np, value))))
    if not issubclass(kind, np.generic):
        return None
    if kind is np.str_:
        return Ext(SCALAR, _encode(["U", value.encode("utf-8", "surrogatepass")]))
    if kind is np.bytes_:
        return Ext(SCALAR, _encode(["S", bytes(value)]))
    if kind is not value.dtype.type:
        return None
    return Ext(SCALAR, _encode([_lower_dtype(np, value.dtype), value.tobytes()]))


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


def raise_array(decode: Callable[[Any], Any], data: memoryview) -> Any:
    """A writable copy; sizes are checked against the bytes that are there."""
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


def raise_scalar(decode: Callable[[Any], Any], data: memoryview) -> Any:
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
