"""Messages of every kind with any values that their types allow: as somebody with a key could send them."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION
from pyfi_hpc.model.packed import offsets_of

#: the first grant of a broker of epoch 1
_GRANT = (1 << 39) + 1
#: small ones often: they name jobs, batches and bundles that are there
_NUMBERS = [
    0, 1, 1, 1, 1, 2, 2, 3, 7, _GRANT, _GRANT, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1,
]  # fmt: skip
_WORDS = [
    "", "n1", "n2", "c1", "sample.work", "client", "agent", "info", "ls", "shutdown", "node_quarantine", "walltime",
    "ünïx\x00", "x" * 300,
]  # fmt: skip
_OFFSETS = [offsets_of([b""]), offsets_of([b"x"] * 3), struct.pack("<3I", 5, 2, 9), struct.pack("<2I", 0, 2**32 - 1)]


def messages(kinds: Any) -> st.SearchStrategy[Any]:
    """Of a union of message types, or of one."""
    return _values(inspect.type_info(kinds))


def _values(kind: Any) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType():
            low = -(2**63) if kind.ge is None else kind.ge
            high = 2**63 - 1 if kind.le is None else kind.le
            known = [n for n in (-1, *_NUMBERS, PROTOCOL_VERSION) if low <= n <= high]
            return st.sampled_from(known) | st.integers(low, high)
        case inspect.FloatType():
            return st.sampled_from([0.0, -1.0, 1e-9, 1.0, 1e300]) | st.floats()
        case inspect.StrType():
            most = 2**30 if kind.max_length is None else kind.max_length
            return st.sampled_from([word for word in _WORDS if len(word) <= most]) | st.text(max_size=8)
        case inspect.BytesType():
            most = 2**30 if kind.max_length is None else kind.max_length
            known = [b"", b"\0", b"\3", bytes(8), bytes(16), msgspec.msgpack.encode({"name": "n1"}), *_OFFSETS]
            return st.sampled_from([data for data in known if len(data) <= most]) | st.binary(max_size=20)
        case inspect.BoolType():
            return st.booleans()
        case inspect.ListType():
            return st.lists(_values(kind.item_type), max_size=3)
        case inspect.TupleType():
            return st.tuples(*map(_values, kind.item_types))
        case inspect.UnionType():
            return st.one_of(*map(_values, kind.types))
        case inspect.NoneType():
            return st.none()
        case inspect.StructType() if kind.cls is m.Outcome:
            return _outcomes() | st.builds(m.Outcome, *[_values(field.type) for field in kind.fields])
        case inspect.StructType():
            return st.builds(kind.cls, *[_values(field.type) for field in kind.fields])
    raise AssertionError(f"no values for {kind}")


@st.composite
def _outcomes(draw: Any) -> m.Outcome:
    """Of the first grants, and nearly right: each part may be a little too short or too long."""
    count = draw(st.integers(0, 3))

    def part(size: int) -> bytes:
        return bytes(max(0, size * count + draw(st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, size]))))

    found = st.sampled_from([0, 0, 1, 2, 3, 10, 11, 12, 255])
    causes = bytes(draw(st.lists(found, min_size=count, max_size=count + 1)))
    grant = draw(st.sampled_from([1, 2, _GRANT, _GRANT, _GRANT + 1]))
    batch, lo, attempt, rank = (draw(st.integers(*ends)) for ends in ((1, 2), (0, 4), (0, 2), (-1, 2)))
    return m.Outcome(
        grant, batch, lo, count, attempt, rank, causes[: count if draw(st.booleans()) else None], part(8), part(4),
        part(4) + bytes(4), b"",
    )  # fmt: skip
