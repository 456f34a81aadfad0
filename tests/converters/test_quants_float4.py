"""MXFP4 and NVFP4, byte by byte and where their scales turn over; test_quants.py holds them against ggml, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from converters import dtypes, quants
from converters.dtypes import DType
from tests.fakes import ggml


def encode(weights: npt.NDArray[np.float32], dtype: DType) -> list[int]:
    return [int(byte) for byte in quants.encode(weights[None, :], dtype, tensor="w", first_index=0)[0]]


def decode(block: list[int], dtype: DType) -> list[float]:
    return [float(weight) for weight in quants.decode(np.array([block], np.uint8), dtype)[0]]


def test_mxfp4_block_byte_by_byte() -> None:
    weights = np.zeros(32, np.float32)
    weights[:6] = [6.0, -6.0, 0.5, 5.0, -7.9, 0.25]  # a four-bit float has 4 and 6: of equally near ones the first
    weights[16:19] = [1.5, -3.0, 0.1]
    # The largest is 7.9, floor(log2) 2, which is a four-bit float's largest power: scale 2 ** 0.
    block = [127, 0x7 | 0x3 << 4, 0xF | 0xD << 4, 0x1, 0x6, 0xF, 0x0] + [0] * 10
    assert encode(weights, dtypes.MXFP4) == block
    assert decode(block, dtypes.MXFP4) == [6.0, -6.0, 0.5, 4.0, -6.0, 0.0] + [0.0] * 10 + [1.5, -3.0] + [0.0] * 14


def test_nvfp4_block_byte_by_byte() -> None:
    weights = np.zeros(64, np.float32)
    weights[:3] = [6.0, -3.0, 0.5]  # scale 1: exponent 7, mantissa 0
    weights[8] = -4.0
    weights[16] = 6.5  # 6.5 / 6 = 1.083: exponent 7, mantissa 1 (1.125), and 6.75 is nearest
    weights[32] = 1e9  # the largest scale, 448
    weights[48] = 6 * 2.0**-9  # the smallest
    scales = [7 << 3, 7 << 3 | 1, 0x7E, 0x01]
    quants_ = [0x7 | 0xE << 4, 0xD, 0x1] + [0] * 5 + ([0x7] + [0] * 7) * 3
    assert encode(weights, dtypes.NVFP4) == scales + quants_
    expected = np.zeros(64)
    expected[[0, 1, 2, 8, 16, 32, 48]] = [6.0, -3.0, 0.5, -4.0, 6.75, 6 * 448.0, 6 * 2.0**-9]
    assert decode(scales + quants_, dtypes.NVFP4) == expected.tolist()


def test_every_byte_decodes_with_every_scale_as_in_ggml() -> None:
    for dtype, n_scales in ((dtypes.MXFP4, 1), (dtypes.NVFP4, 4)):
        blocks = np.tile(np.arange(dtype.block_bytes, dtype=np.uint8) * 17, (256, 1))
        blocks[:, :n_scales] = np.arange(256, dtype=np.uint8)[:, None]
        ours, theirs = quants.decode(blocks, dtype), ggml.dequantize(blocks, dtype)
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("dtype", [dtypes.MXFP4, dtypes.NVFP4], ids=str)
def test_largest_weights_around_each_power_of_two_become_ggmls_bytes(dtype: DType) -> None:
    """Just below a power of two the logarithm in float32 is that power already: up to 44 steps of the mantissa."""
    steps = np.concatenate([np.arange(-70, 4), [2**19 - 1, 2**19, 2**19 + 1, 2**20, 3 * 2**19]])
    normal = (np.arange(1, 255)[:, None] << 23) + steps
    denormal = (1 << np.arange(7, 23))[:, None] + np.arange(-64, 4)
    bits = np.concatenate([normal.ravel(), denormal.ravel(), np.arange(1, 64)]).astype(np.uint32)
    weights = np.zeros((len(bits), 64), np.float32)
    weights[:, 3] = weights[:, 60] = bits.view(np.float32)
    weights[:, [9, 33]] = bits.view(np.float32)[:, None] * np.array([-0.4, 0.7], np.float32)
    ours = quants.encode(weights, dtype, tensor="w", first_index=0)
    np.testing.assert_array_equal(ours, ggml.quantize(weights, dtype))
