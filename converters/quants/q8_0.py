"""Q8_0: 32 weights in 34 bytes, 8.5 bits per weight.

    0  d   float16: scale
    2  qs  32 int8: w = d * q

Layout and rounding: block_q8_0 and quantize_row_q8_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, Weights
from converters.quants.nibbles import half_bytes, half_values, inverse
from converters.quants.rounding import half_away

DTYPE = dtypes.Q8_0
LIMIT = np.inf


def quantize_blocks(weights: Weights) -> Blocks:
    d = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    qs = half_away(weights * inverse(d))
    return np.concatenate([half_bytes(d), qs], axis=1)


def dequantize_blocks(blocks: Blocks) -> Weights:
    d, qs = np.split(blocks, [2], axis=1)
    return half_values(d) * qs.view(np.int8).astype(np.float32)
