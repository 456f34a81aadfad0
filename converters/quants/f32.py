"""F32: IEEE 754 binary32, little-endian. Bits are copied, NaN payloads and all."""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, Weights
from converters.quants.importance_matrix import ImportanceMatrix

DTYPE = dtypes.F32
LIMIT = None


def quantize_into(out: Blocks, weights: Weights, importance: ImportanceMatrix | None = None) -> None:
    np.copyto(out, weights.astype("<f4", copy=False).view(np.uint8))


def dequantize_into(out: Weights, blocks: Blocks) -> None:
    np.copyto(out, blocks.view("<f4"))
