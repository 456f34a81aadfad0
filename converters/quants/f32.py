"""F32: IEEE 754 binary32, little-endian. Bits are copied, NaN payloads and all."""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, ImportanceMatrix, Weights

DTYPE = dtypes.F32
LIMIT = None


def quantize_blocks(weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
    return weights.astype("<f4").view(np.uint8)


def dequantize_blocks(blocks: Blocks) -> Weights:
    return blocks.view("<f4").astype(np.float32)
