"""Payloads: every kind of value comes back as itself, everything else is refused, no bytes can hurt."""

from __future__ import annotations

import collections
import enum
import math
import pathlib
import pickle
import struct
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec.msgpack import Ext, encode

from pyfi_hpc.runner import arrays
from pyfi_hpc.runner import payload as p

FOLDER = str(Path(p.__file__).parent)
#: as child.py does it
LOAD = (
    "import importlib, sys, types; box = types.ModuleType('box'); box.__path__ = [sys.argv[1]]\n"
    "sys.modules['box'] = box; payload = importlib.import_module('box.payload')\n"
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in every type inside; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            and b.flags.writeable and (b.flags.f_contiguous or not a.flags.f_contiguous)
        )  # fmt: skip
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    if isinstance(a, (set, frozenset)):
        return a == b and sorted(type(x).__name__ for x in a) == sorted(type(x).__name__ for x in b)
    if isinstance(a, (float, complex, Decimal)):
        return repr(a) == repr(b)
    if isinstance(a, (datetime, time)):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and a.tzinfo == b.tzinfo
    return bool(a == b)


def sendable(dtype: np.dtype[Any]) -> bool:
    """No objects, no titles, no fields without bytes: those are refused and tested elsewhere."""
    if dtype.subdtype is not None:
        return sendable(dtype.subdtype[0]) and dtype.itemsize > 0
    if dtype.fields:
        return all(len(f) == 2 and sendable(f[0]) for f in dtype.fields.values())
    return not dtype.hasobject and dtype.itemsize > 0


zones = st.none() | st.just(UTC) | st.just(ZoneInfo("Europe/Zurich")) | st.builds(
    timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5)
)  # fmt: skip
hashables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary(max_size=20)
    | st.text(st.characters(), max_size=20) | st.complex_numbers(allow_nan=False) | st.uuids()
    | st.decimals(allow_nan=False) | st.dates() | st.timedeltas() | st.times(timezones=st.none())
    | st.builds(pathlib.PurePosixPath, st.text("ab/.", max_size=5)),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
leaves = (
    hashables | st.floats() | st.complex_numbers() | st.builds(datetime.replace, st.datetimes(), tzinfo=zones)
    | npst.arrays(npst.scalar_dtypes() | npst.nested_dtypes(max_leaves=4, max_itemsize=64).filter(
        sendable), npst.array_shapes(min_dims=0, max_dims=3, max_side=3), fill=st.nothing()).filter(
            lambda a: isinstance(a, np.ndarray) and sendable(a.dtype))
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(hashables, inner, max_size=4) | st.sets(hashables, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(values)
def test_every_value_comes_back_with_exactly_its_types(value: Any) -> None:
    """Round trip of random nested values, compared by value and by type at every depth."""
    assert same(value, p.decode_value(p.encode_value(value)))


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=3), st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_calls_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Round trip of random positional and keyword arguments."""
    got = p.decode_call(p.encode_call(tuple(args), kwargs))
    assert same((args, kwargs), got)


SAMPLES = [
    2**64, -(2**63) - 1, 10**5000, "\udc80 lone", {"\udc80": 2**70}, [1, 2**80], {(1, 2): {3}},
    {frozenset({1}): ()},
    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::3], np.arange(24).reshape(2, 3, 4)[:,
    ::2],
    np.zeros((0, 4)), np.array(5), np.array("2024-01-01", "M8[ns]"), np.array([1, 2], ">i4"),
    np.array(["ab", "c"]),
    np.zeros(3, np.dtype([("a", "i1"), ("b", "f8", (2, 2)), ("c", [("d", "S3")])], align=True)),
    np.float32(1.5), np.bool_(True), np.str_("a\0"), np.bytes_(b"a\0"), np.str_(""),
    np.datetime64("2024-01-01"),
    np.zeros(1, [("a", "i4"), ("b", "f8")])[0], np.longdouble(1) / 3, bytearray(b"x"), Path("/tmp/x"),
    pathlib.PureWindowsPath("c:\\x"), datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Zurich"), fold=1),
    datetime.max, time(1, 2, 3, 4, tzinfo=UTC), timedelta(-1, 5, 7), date.min, Decimal("sNaN12"),
    Decimal("-0.00"), -0.0, math.inf, complex(-0.0, math.nan), UUID(int=7), [[[]]], {}, set(), (), ((),),
]  # fmt: skip


@pytest.mark.parametrize("value", SAMPLES, ids=map(str, range(len(SAMPLES))))
def test_chosen_values_come_back(value: Any) -> None:
    """The corners that random values seldom reach, alone and nested."""
    assert same(value, p.decode_value(p.encode_value(value)))
    nested = ([{"k": value}], value)
    assert same(nested, p.decode_value(p.encode_value(nested)))


class Colour(enum.IntEnum):
    RED = 1


class MyDict(dict):  # type: ignore[type-arg]
    pass


def loop() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def deep(n: int) -> Any:
    value: Any = 1
    for _ in range(n):
        value = (value,)
    return value


REFUSED = [
    (([1, {"x": [object()]}],), {}, "argument 0[1]['x'][0]: a value of type object"),
    ((1,), {"opts": {"a": {Colour.RED}}}, "keyword 'opts'['a']{...}: a value of type HERE.Colour"),
    ((1, 2, {"x": (1, print)}), {}, "argument 2['x'][1]: a value of type builtin_function_or_method"),
    ((MyDict(),), {}, "argument 0: a value of type HERE.MyDict"),
    ((collections.OrderedDict(),), {}, "argument 0: a value of type collections.OrderedDict"),
    (({Colour.RED: 1},), {}, "argument 0 key <Colour.RED: 1>: a value of type"),
    ((np.array([object()]),), {}, "argument 0: a numpy array of dtype object holds Python objects"),
    ((np.rec.array([1]),), {}, "argument 0: a value of type numpy.rec.recarray"),
    ((loop(),), {}, "nested deeper than 100 levels, or contains itself"),
    ((deep(102),), {}, "nested deeper than 100 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs", "text"), REFUSED, ids=lambda v: repr(v)[:30])
def test_refusals_name_the_path(args: Any, kwargs: Any, text: str) -> None:
    """What cannot come back as itself is refused, and the text tells where it sits."""
    with pytest.raises(p.NotSendable) as caught:
        p.encode_call(args, kwargs)
    assert text.replace("HERE", __name__) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_depth_limit_is_the_same_on_both_sides() -> None:
    """The deepest value that is accepted comes back."""
    assert p.decode_value(p.encode_value(deep(101))) == deep(101)


class Later:
    def __init__(self, slot: int) -> None:
        self.slot = slot


def find(obj: Any) -> int | None:
    return obj.slot if isinstance(obj, Later) else None


def test_references_are_spliced_at_any_depth() -> None:
    """Futures in lists, tuples, dict values and keywords become the inputs; a slot used twice is
    one object."""
    data = p.encode_call((Later(0), [(1, Later(1))]), {"k": {"a": Later(1)}, "t": {(1, 2): Later(0)}}, find)
    args, kwargs = p.decode_call(data, [p.encode_value((1, 2)), p.encode_value([3])])
    assert args == [(1, 2), [(1, [3])]]
    assert kwargs == {"k": {"a": [3]}, "t": {(1, 2): (1, 2)}}
    assert args[1][0][1] is kwargs["k"]["a"]


def test_references_are_refused_in_sets_keys_and_without_a_hook() -> None:
    """A future where its value could not be put is an error, not a silent None."""
    for bad in ({Later(0)}, {Later(0): 1}, {(Later(0),): 1}):
        with pytest.raises(p.NotSendable, match="argument 0"):
            p.encode_call((bad,), {}, find)
    with pytest.raises(p.NotSendable, match="Later"):
        p.encode_value(Later(0))
    with pytest.raises(ValueError, match="slot 3 .* missing"):
        p.decode_call(p.encode_call((Later(3),), {}, find), [p.encode_value(1)])


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xd6\x06\xd5\x03\x55\x0d")  # a scalar of numpy whose bytes are a text: once AttributeError
@example(b"\xd4\x17\x00")  # a path of another system's kind: once NotImplementedError
def test_random_bytes_raise_nothing_but_valueerror(data: bytes) -> None:
    """Decoding garbage gives a value or a ValueError."""
    for decode in (p.decode_value, p.decode_call, p.decode_error):
        try:
            decode(data)
        except ValueError:
            pass


@settings(max_examples=500, deadline=None)
@given(values, st.data())
def test_damaged_bytes_raise_nothing_but_valueerror(value: Any, data: Any) -> None:
    """One byte of a valid payload is changed: a value or a ValueError."""
    raw = bytearray(p.encode_value([value]))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        p.decode_value(bytes(raw))
    except ValueError:
        pass


def bomb() -> bytes:
    """Arrays in arrays, each claiming as many elements as bytes follow."""
    size = 8 << 20
    head = b"".join(b"\xdd" + (size - 5 * (i + 1) - 5).to_bytes(4, "big") for i in range(900))
    return head + b"\xc0" * (size - len(head))


def test_hostile_headers_cost_no_memory() -> None:
    """Huge claims in headers are checked against the bytes that are there; run under a memory limit."""
    array = header("<f8", [2**40], b"")
    for bad in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        array,
        b"\x91" * 10**6,
    ):
        with pytest.raises(ValueError):
            p.decode_value(bad)
    code = (
        LOAD + "import resource\n"
        "data = sys.stdin.buffer.read()\n"
        "try: payload.decode_value(data)\n"
        "except ValueError as e: print('refused', e)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 300_000\n"
    )
    done = subprocess.run([sys.executable, "-c", code, FOLDER], input=bomb(), capture_output=True, timeout=60)
    assert done.stdout.startswith(b"refused"), done.stderr


def header(spec: Any, shape: Any, raw: bytes) -> bytes:
    head = encode([spec, shape, "C"])
    return encode(Ext(arrays.ARRAY, struct.pack("<I", len(head)) + head + raw))


@pytest.mark.parametrize(
    ("spec", "shape"),
    [("O", [1]), ("|O", [1]), ("<f8", [-1]), ("<f8", [2]), ("T", [1]), ("V0", [2**60]), ("f8,O", [1]), (7,
    [1]),
     ([["a"], ["<f8"], [4], 8, False], [1]), (["O", [1]], [1]), ("<f8", "x"), ("<f8", [2**62, 0, 2**62])],
)  # fmt: skip
def test_hostile_arrays_are_refused(spec: Any, shape: Any) -> None:
    """Object dtypes, wrong sizes, fields beyond the item: ValueError."""
    raw = b"" if shape == [2**62, 0, 2**62] else b"12345678"
    with pytest.raises(ValueError):
        p.decode_value(header(spec, shape, raw))


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, object())

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


BUILTIN = [
    ValueError("x", 2), KeyError("k"), FileNotFoundError(2, "No such file", "/x"), ZeroDivisionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), OSError(5, "io"), StopIteration((1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("error", BUILTIN, ids=repr)
def test_builtin_exceptions_come_back_as_themselves(error: Exception) -> None:
    """Type, args and text are the same; the remote traceback is the cause."""
    again = p.rebuild_error(p.decode_error(p.encode_error(raised(error))))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert "Traceback" in str(again.__cause__)


def test_other_exceptions_travel_as_text() -> None:
    """User types, SystemExit and args that cannot be sent are not rebuilt, and nothing raises."""
    for error in (
        Odd(1, 2),
        SystemExit(3),
        ValueError(object()),
        KeyboardInterrupt(),
        ValueError("x" * 10**6),
    ):
        failure = p.decode_error(p.encode_error(raised(error)))
        assert failure.type_name == type(error).__qualname__
        assert len(failure.message) < 40_000
        assert p.rebuild_error(failure) is None
    assert p.decode_error(p.encode_error(raised(ValueError("\udc80")))).message == "\\udc80"


def test_the_files_stand_alone() -> None:
    """Loaded by their path in an isolated interpreter they import nothing of ours and no numpy."""
    code = LOAD + "print([m for m in sys.modules if m.startswith('pyfi_hpc') or m == 'numpy'])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, FOLDER], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
