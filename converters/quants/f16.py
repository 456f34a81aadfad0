"""F16: IEEE 754 binary16, little-endian, rounded to nearest even."""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, ImportanceMatrix, Weights

DTYPE = dtypes.F16
LIMIT = 65520.0  # halfway from the largest, 65504, to the first that is not there; it would round to infinity


def quantize_blocks(weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
    return weights.astype("<f2").view(np.uint8)


def dequantize_blocks(blocks: Blocks) -> Weights:
    return blocks.view("<f2").astype(np.float32)
