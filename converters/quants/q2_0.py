"""Q2_0: 64 weights in 18 bytes, 2.25 bits per weight: each is -d, 0, d or 2 * d, which the last one never is.

    0  d   float16: scale, the magnitude of the weight farthest from zero
    2  qs  16 bytes: four quants each, the first one lowest; w = d * (q - 1)

Layout and rounding: block_q2_0 and quantize_row_q2_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Real, Reals, Whole

DTYPE = dtypes.Q2_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    d = v.fold(v.larger, v.real(0.0), (abs(x[i]) for i in v.loop(0, 64, unroll=16)))
    inverse = v.reciprocal(d)
    words = v.wholes(4)
    for k in v.loop(0, 4, unroll=1):
        quants = [_quant(v, x[16 * k + i] * inverse) for i in range(16)]
        words[k] = v.fold(lambda word, q: word | q, quants[0], (q << 2 * i for i, q in enumerate(quants) if i))
    block.store_short(0, v.half(d))
    block.store(2, words, 4)


def _quant(v: Machine, value: Real) -> Whole:
    """Where d is so small that 1 / d is infinite, C has a number far below zero for every weight."""
    return v.select(abs(value) < 2.0, v.round_half_away(value) + 1, 0)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, words = block.load_short(0).half(), block.load(2, 4)
    for k in v.loop(0, 4, unroll=1):
        for i in range(16):
            x[16 * k + i] = ((words[k] >> 2 * i & 3) - 1).real() * d
