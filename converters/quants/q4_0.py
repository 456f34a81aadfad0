"""Q4_0: 32 weights in 18 bytes, 4.5 bits per weight.

    0  d   float16: scale, with the sign that gives the weight farthest from zero quant 0
    2  qs  16 bytes: see nibbles; w = d * (q - 8)

Layout and rounding: block_q4_0 and quantize_row_q4_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_scale import fit_scale
from converters.quants.importance import Importance, weigh
from converters.quants.nibbles import pack_nibbles, unpack_nibbles
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q4_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    quants = v.wholes(32)
    if importance:
        weighed = v.reals(32)
        weigh(v, weighed, importance.columns, x, importance.row_mean_square, 32)
        fit = fit_scale(v, x, weighed, 32, top=8)
        d = fit.scale
        for i in v.loop(0, 32):
            quants[i] = fit.quant(v, x[i])
    else:
        d = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, 32, unroll=32))) / -8.0
        inverse = v.reciprocal(d)
        for i in v.loop(0, 32, unroll=32):
            quants[i] = (v.truncate(x[i] * inverse + 8.5) & 255).at_most(15)
    block.store_short(0, v.half(d))
    block.store(2, pack_nibbles(v, quants), 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, quants = block.load_short(0).half(), unpack_nibbles(v, block.load(2, 4))
    for i in v.loop(0, 32, unroll=32):
        x[i] = d * (quants[i] - 8).real()
