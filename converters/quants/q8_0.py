"""Q8_0: 32 weights in 34 bytes, 8.5 bits per weight.

    0  d   float16: scale
    2  qs  32 int8: w = d * q

Layout and rounding: block_q8_0 and quantize_row_q8_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q8_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    """Every weight has its own int8: there is nothing to search, and importance changes nothing."""
    largest = v.fold(v.larger, v.real(0.0), (abs(x[i]) for i in v.loop(0, 32, unroll=32)))
    d = largest / 127.0
    inverse = v.reciprocal(d)
    words = v.wholes(8)
    for k in range(8):
        words[k] = v.pack(*(v.round_half_away(x[4 * k + b] * inverse) & 255 for b in range(4)))
    block.store_short(0, v.half(d))
    block.store(2, words, 8)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, words = block.load_short(0).half(), block.load(2, 8)
    for k in range(8):
        for b in range(4):
            x[4 * k + b] = d * (words[k] >> (8 * b)).signed_byte().real()
