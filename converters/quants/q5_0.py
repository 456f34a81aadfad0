"""Q5_0: 32 weights in 22 bytes, 5.5 bits per weight.

    0  d   float16: scale, with the sign that gives the weight farthest from zero quant 0
    2  qh  4 bytes: bit i of the word is the fifth bit of quant i
    6  qs  16 bytes: see nibbles; w = d * (q - 16)

Layout and rounding: block_q5_0 and quantize_row_q5_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fifth_bits import pack_fifth_bits, unpack_five_bits
from converters.quants.fit_scale import fit_scale
from converters.quants.importance import Importance, weigh
from converters.quants.nibbles import pack_nibbles
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q5_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    quants = v.wholes(32)
    if importance:
        weighed = v.reals(32)
        weigh(v, weighed, importance.columns, x, importance.row_mean_square, 32)
        fit = fit_scale(v, x, weighed, 32, top=16)
        d = fit.scale
        for i in v.loop(0, 32):
            quants[i] = fit.quant(v, x[i])
    else:
        d = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, 32, unroll=32))) / -16.0
        inverse = v.reciprocal(d)
        for i in v.loop(0, 32, unroll=32):
            quants[i] = (v.truncate(x[i] * inverse + 16.5) & 255).at_most(31)
    block.store_short(0, v.half(d))
    block.store(2, pack_fifth_bits(v, quants), 1)
    block.store(6, pack_nibbles(v, quants), 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, quants = block.load_short(0).half(), unpack_five_bits(v, block.load(2, 1), block.load(6, 4))
    for i in v.loop(0, 32, unroll=32):
        x[i] = d * (quants[i] - 16).real()
