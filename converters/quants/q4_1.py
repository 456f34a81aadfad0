"""Q4_1: 32 weights in 20 bytes, 5 bits per weight.

    0  d   float16: scale
    2  m   float16: minimum
    4  qs  16 bytes: quant i in the low half of byte i, quant i + 16 in its high half; w = d * q + m

Layout and rounding: block_q4_1 and quantize_row_q4_1_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters import dtypes
from converters.quants.base import Blocks, Weights
from converters.quants.nibbles import half_bytes, half_values, inverse, pack_nibbles, unpack_nibbles
from converters.quants.rounding import truncated

DTYPE = dtypes.Q4_1
LIMIT = np.inf


def quantize_blocks(weights: Weights) -> Blocks:
    minimum, maximum = _first(weights.argmin(axis=1), weights), _first(weights.argmax(axis=1), weights)
    d = (maximum - minimum) / np.float32(15)
    quants = np.minimum(truncated((weights - minimum) * inverse(d) + np.float32(0.5)), np.uint8(15))
    return np.concatenate([half_bytes(d), half_bytes(minimum), pack_nibbles(quants)], axis=1)


def dequantize_blocks(blocks: Blocks) -> Weights:
    d, m, qs = np.split(blocks, [2, 4], axis=1)
    return half_values(d) * unpack_nibbles(qs).astype(np.float32) + half_values(m)


def _first(index: npt.NDArray[np.intp], weights: Weights) -> Weights:
    """The weight at index, one a block. Not just min(): of 0.0 and -0.0 ggml keeps the one that comes first."""
    return np.take_along_axis(weights, index[:, None], axis=1)
