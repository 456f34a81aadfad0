"""Blocks of early 2023, byte by byte and against the formulas of those days."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from converters import dtypes, quants
from converters.quants import withdrawn
from converters.quants.kernel import KernelQuant
from tests.fakes import old_ggml

OLD = old_ggml.V2 | old_ggml.V1
NAMES = [each.DTYPE.name for each in withdrawn.TYPES]


def decoded(name: str, *parts: bytes) -> list[float]:
    block = np.frombuffer(b"".join(parts), np.uint8)
    return [float(weight) for weight in quants.decode(block[None], dtypes.BY_NAME[name])[0]]


QS = bytes(range(0x10, 0x20))  # low halves 0 to 15, high halves all 1
PAIRS = [q for low in range(16) for q in (low, 1)]
HALVES = [*range(16), *[1] * 16]


@pytest.mark.parametrize(
    ("name", "parts", "expected"),
    [
        ("Q4_0_V1", (struct.pack("<f", 0.5), QS), [(q - 8) / 2 for q in PAIRS]),
        ("Q4_1_V1", (struct.pack("<ff", 0.5, -3.0), QS), [q / 2 - 3 for q in PAIRS]),
        ("Q4_2", (struct.pack("<e", -0.25), QS[:8]), [(q - 8) / -4 for q in PAIRS[:16]]),
        ("Q4_3", (struct.pack("<ee", 0.25, 7.0), QS[:8]), [q / 4 + 7 for q in PAIRS[:16]]),
        ("Q4_0_V2", (struct.pack("<f", 0.5), QS), [(q - 8) / 2 for q in HALVES]),
        ("Q4_1_V2", (struct.pack("<ff", 0.5, -3.0), QS), [q / 2 - 3 for q in HALVES]),
        ("Q8_0_V2", (struct.pack("<f32b", 2.0, *range(-16, 16)),), [2.0 * q for q in range(-16, 16)]),
    ],
)
def test_a_block_byte_by_byte(name: str, parts: tuple[bytes, ...], expected: list[float]) -> None:
    assert decoded(name, *parts) == expected


@pytest.mark.parametrize("with_llvm", [True, False], ids=["llvm", "numpy"])
@pytest.mark.parametrize("each", withdrawn.TYPES, ids=NAMES)
def test_any_bytes_decode_as_they_did(each: withdrawn.Withdrawn, with_llvm: bool) -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (4001, each.DTYPE.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = OLD[each.DTYPE.name].dequantize(blocks)
        ours = KernelQuant(each, with_llvm=with_llvm).dequantize_blocks(blocks)
    numbers = ~np.isnan(expected)
    assert numbers.mean() > 0.9  # of float16, one in 32 is none
    np.testing.assert_array_equal(np.isnan(ours), ~numbers)
    np.testing.assert_array_equal(ours.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


@pytest.mark.parametrize("name", NAMES)
def test_what_was_quantized_then_is_near_its_weights(name: str) -> None:
    """The fake quantizer is no noise: the error is what so many bits cost."""
    weights = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    back = OLD[name].read(OLD[name].rows(weights), weights.shape)
    error = float(np.sqrt(np.mean((weights - back) ** 2)))
    assert 0.001 < error < (0.01 if name.startswith("Q8") else 0.11)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_read_and_never_written(name: str) -> None:
    dtype = dtypes.BY_NAME[name]
    assert quants.can_decode(dtype) and not quants.can_encode(dtype)
    assert dtype.ggml_id is None
    with pytest.raises(KeyError):
        quants.encode(np.zeros((1, 32), np.float32), dtype, tensor="w", first_index=0)
