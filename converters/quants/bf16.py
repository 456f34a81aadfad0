"""BF16: the upper half of a float32 (1 sign, 8 exponent, 7 mantissa bits), little-endian, rounded to nearest even."""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, ImportanceMatrix, Weights

DTYPE = dtypes.BF16
LIMIT = float.fromhex("0x1.ffp127")  # halfway from the largest, 0x1.fep127, to infinity


def quantize_blocks(weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
    bits = weights.view(np.uint32)
    # Just under half of the part that goes, and one more if the part that stays is odd: a tie goes to the even one.
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype("<u2").view(np.uint8)


def dequantize_blocks(blocks: Blocks) -> Weights:
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
