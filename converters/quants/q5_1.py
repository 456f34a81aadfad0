"""Q5_1: 32 weights in 24 bytes, 6 bits per weight.

    0  d   float16: scale
    2  m   float16: minimum
    4  qh  4 bytes: bit i of the word is the fifth bit of quant i
    8  qs  16 bytes: see nibbles; w = d * q + m

Layout and rounding: block_q5_1 and quantize_row_q5_1_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fifth_bits import pack_fifth_bits, unpack_five_bits
from converters.quants.fit_minimum import fit_minimum
from converters.quants.importance import Importance, weigh
from converters.quants.nibbles import pack_nibbles
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q5_1


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    quants = v.wholes(32)
    if importance:
        weighed = v.reals(32)
        weigh(v, weighed, importance.columns, x, importance.row_mean_square, 32)
        fit = fit_minimum(v, x, weighed, 32, top=31, first=-0.9, step=0.05, n_steps=36)
        d, low = fit.scale, fit.minimum
        for i in v.loop(0, 32):
            quants[i] = fit.quant(v, x[i])
    else:
        low = v.fold(v.smaller, x[0], (x[i] for i in v.loop(0, 32, unroll=32)))
        high = v.fold(v.larger, x[0], (x[i] for i in v.loop(0, 32, unroll=32)))
        d = (high - low) / 31.0
        inverse = v.reciprocal(d)
        for i in v.loop(0, 32, unroll=32):
            quants[i] = v.truncate((x[i] - low) * inverse + 0.5)
    block.store_short(0, v.half(d))
    block.store_short(2, v.half(low))
    block.store(4, pack_fifth_bits(v, quants), 1)
    block.store(8, pack_nibbles(v, quants), 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, m = block.load_short(0).half(), block.load_short(2).half()
    quants = unpack_five_bits(v, block.load(4, 1), block.load(8, 4))
    for i in v.loop(0, 32, unroll=32):
        x[i] = d * quants[i].real() + m
