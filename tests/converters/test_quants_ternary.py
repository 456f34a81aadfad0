"""TQ1_0, TQ2_0, Q1_0 and Q2_0, byte by byte; test_quants.py holds them against ggml."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters import dtypes, quants
from converters.dtypes import DType


def encode(weights: npt.NDArray[np.float32], dtype: DType) -> list[int]:
    return [int(byte) for byte in quants.encode(weights[None, :], dtype, tensor="w", first_index=0)[0]]


def decode(block: list[int], dtype: DType) -> list[float]:
    return [float(weight) for weight in quants.decode(np.array([block], np.uint8), dtype)[0]]


def test_tq1_0_block_byte_by_byte() -> None:
    weights = np.zeros(256, np.float32)
    weights[[0, 32, 64, 96, 128]] = [2.0, -2.0, 0.9, 1.0, -1.0]  # 2, 0, 1, then halves away from zero: 2, 0
    weights[[160, 224]] = [-2.0, 2.0]  # 0 and, of its five, the last one 2
    weights[[240, 252]] = [2.0, -2.0]  # 2 and, of its four, the last one 0
    # As fractions of 243 in base 3: 20120 is 177, 01112 is 41, 2110 is 198, all zeros are 11111 or 11110: 121 and 120.
    qs = [187] + [128] * 31 + [44] + [128] * 15  # of 256, rounded up: 186.5 and 127.5, 43.2
    qh = [209, 127, 127, 127]  # 208.6, 126.4
    d = [0x00, 0x40]
    block = qs + qh + d
    assert encode(weights, dtypes.TQ1_0) == block
    expected = np.zeros(256)
    expected[[0, 32, 96, 128, 160, 224, 240, 252]] = [2, -2, 2, -2, -2, 2, 2, -2]
    assert decode(block, dtypes.TQ1_0) == expected.tolist()


def test_tq2_0_block_byte_by_byte() -> None:
    weights = np.zeros(256, np.float32)
    weights[[0, 32, 64, 96]] = [4.0, -4.0, 1.9, 2.0]
    weights[255] = -2.0
    qs = [2 | 0 << 2 | 1 << 4 | 2 << 6] + [0x55] * 62 + [1 | 1 << 2 | 1 << 4 | 0 << 6]
    block = [*qs, 0x00, 0x44]
    assert encode(weights, dtypes.TQ2_0) == block
    expected = np.zeros(256)
    expected[[0, 32, 96, 255]] = [4, -4, 4, -4]
    assert decode(block, dtypes.TQ2_0) == expected.tolist()
    assert decode([0xFF] * 64 + [0x00, 0x3C], dtypes.TQ2_0) == [2.0] * 256  # which no ternary weight is


def test_q1_0_block_byte_by_byte() -> None:
    weights = np.ones(128, np.float32)
    weights[[0, 9, 127]] = [-1.0, -0.0, -2.0]  # a zero of either sign is not negative
    block = [0x00, 0x3C, 0xFE] + [0xFF] * 14 + [0x7F]  # the mean magnitude is 128 / 128
    assert encode(weights, dtypes.Q1_0) == block
    assert decode(block, dtypes.Q1_0) == [-1.0] + [1.0] * 126 + [-1.0]


def test_q2_0_block_byte_by_byte() -> None:
    weights = np.zeros(64, np.float32)
    weights[:5] = [2.0, -2.0, 0.9, 1.0, -1.0]
    block = [0x00, 0x40, 2 | 0 << 2 | 1 << 4 | 2 << 6, 0x54] + [0x55] * 14
    assert encode(weights, dtypes.Q2_0) == block
    assert decode(block, dtypes.Q2_0) == [2.0, -2.0, 0.0, 2.0, -2.0] + [0.0] * 59
    assert decode([0x00, 0x40] + [0xFF] * 16, dtypes.Q2_0) == [4.0] * 64


def test_q2_0_of_weights_too_small_to_divide_by_is_as_c_has_it() -> None:
    weights = np.full(64, 1e-39, np.float32)  # 1 / d is infinite, and so is every quant: an int32 cannot hold it
    assert encode(weights, dtypes.Q2_0) == [0] * 18
