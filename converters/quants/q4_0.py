"""Q4_0: 32 weights in 18 bytes, 4.5 bits per weight.

    0  d   float16: scale, with the sign that makes the largest weight quant 0
    2  qs  16 bytes: quant i in the low half of byte i, quant i + 16 in its high half; w = d * (q - 8)

Layout and rounding: block_q4_0 and quantize_row_q4_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

import numpy as np

from converters import dtypes
from converters.quants.base import Blocks, Weights
from converters.quants.nibbles import half_bytes, half_values, inverse, pack_nibbles, unpack_nibbles
from converters.quants.rounding import truncated

DTYPE = dtypes.Q4_0
LIMIT = np.inf


def quantize_blocks(weights: Weights) -> Blocks:
    first_largest = np.abs(weights).argmax(axis=1)[:, None]
    largest = np.take_along_axis(weights, first_largest, axis=1) + np.float32(0)  # + 0: ggml never takes -0.0
    d = largest / np.float32(-8)
    quants = np.minimum(truncated(weights * inverse(d) + np.float32(8.5)), np.uint8(15))
    return np.concatenate([half_bytes(d), pack_nibbles(quants)], axis=1)


def dequantize_blocks(blocks: Blocks) -> Weights:
    d, qs = np.split(blocks, [2], axis=1)
    return half_values(d) * (unpack_nibbles(qs).astype(np.float32) - np.float32(8))
