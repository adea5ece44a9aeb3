"""Large values cut into blocks: what is found again, what is forgotten. No database."""

from __future__ import annotations

import random
from struct import unpack_from

import pytest

from pyfi_hpc.ledger import blocks as blocks_module
from pyfi_hpc.ledger.blocks import BLOCK_BYTES, BLOCK_NUMBER_BITS, PARTITION_JOBS, ROW_BYTES, Blocks
from pyfi_hpc.model.packed import offsets_of

RANDOM = random.Random(1)


def cut(blocks: Blocks, *values: bytes, job: int = 1) -> tuple[list[int] | None, dict[int, bytes]]:
    """The numbers of the blocks of a batch's values, and what would be stored, by number."""
    rows: list[bytes | memoryview] = []
    found = blocks.cut(job, offsets_of(list(values)), b"".join(values), rows)
    stored: dict[int, bytes] = {}
    for head, data in zip(rows[::2], rows[1::2], strict=True):
        columns, _, number, _, part, size = unpack_from(">h iq ih i", head)
        assert columns == 3 and size == len(data) <= ROW_BYTES
        assert part == len(stored.get(number, b"")) // ROW_BYTES, "parts come in order"
        stored[number] = stored.get(number, b"") + bytes(data)
    return found, stored


def test_blocks_put_together_are_the_payload() -> None:
    """Values of all sizes around a block's, in one batch: joined by number they are what was cut."""
    values = [RANDOM.randbytes(size) for size in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 7, 1_000_000)]
    found, stored = cut(Blocks(), *values)
    assert found is not None
    assert b"".join(stored[number] for number in found) == b"".join(values)


@pytest.mark.parametrize(
    "values",
    [[], [b""], [b"x" * (BLOCK_BYTES - 1)], [b"x" * 1000] * 1000, [b"x" * BLOCK_BYTES, *[b"y"] * 10_000]],
    ids=["none", "empty", "almost", "many small", "one among many"],
)
def test_batches_without_large_values_are_left_alone(values: list[bytes]) -> None:
    """Nothing is cut where no task is large, or a large one is among thousands."""
    assert cut(Blocks(), *values) == (None, {})


def test_a_value_is_found_wherever_it_stands_in_a_batch() -> None:
    """The same value after a small one and between large ones is cut from its own start, and found."""
    model = RANDOM.randbytes(5 * BLOCK_BYTES + 5)
    blocks = Blocks()
    first, _ = cut(blocks, model)
    blocks.committed()
    again, stored = cut(blocks, b"before", model, RANDOM.randbytes(BLOCK_BYTES), model)
    assert first is not None and again is not None
    assert again[1:7] == first and again[-6:] == first
    assert sum(map(len, stored.values())) == len(b"before") + BLOCK_BYTES


def test_what_was_not_committed_is_not_known() -> None:
    """Within a group a value is found; a group that is packed again, or another one after it failed, stores it anew."""
    value = RANDOM.randbytes(BLOCK_BYTES)
    blocks = Blocks()
    blocks.begin()
    first, _ = cut(blocks, value)
    assert cut(blocks, value) == (first, {})
    blocks.begin()
    second, stored = cut(blocks, value)
    assert second != first and list(stored.values()) == [value]
    blocks.committed()
    blocks.begin()
    assert cut(blocks, value) == (second, {})


def test_numbers_go_on_after_those_of_the_ledger_and_by_partition() -> None:
    """Numbers are never used twice: above the highest; a later partition of jobs begins its own, knowing nothing."""
    value = RANDOM.randbytes(BLOCK_BYTES)
    blocks = Blocks(job=5, highest=41)
    assert cut(blocks, value)[0] == [42]
    blocks.committed()
    later = 3 * PARTITION_JOBS + 7
    third = [3 << BLOCK_NUMBER_BITS]
    assert cut(blocks, value, job=later)[0] == third
    blocks.committed()
    assert cut(blocks, value, job=5) == (third, {}), "an earlier job may refer to a later partition"
    assert cut(Blocks(later, 41), value)[0] == third
    assert cut(Blocks(later, third[0]), value)[0] == [third[0] + 1]


def test_the_one_used_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three: the value that is used all the time stays known."""
    monkeypatch.setattr(blocks_module, "_KNOWN_MAX", 3)
    blocks = Blocks()
    hot = RANDOM.randbytes(BLOCK_BYTES)
    kept, _ = cut(blocks, hot)
    blocks.committed()
    for _ in range(10):
        cut(blocks, RANDOM.randbytes(BLOCK_BYTES))
        blocks.committed()
        assert cut(blocks, hot) == (kept, {})
        blocks.committed()
