"""IQ4_NL: 32 weights in 18 bytes, 4.5 bits per weight, at sixteen levels that lie closer together near zero.

    0  d   float16: scale
    2  qs  16 bytes: see nibbles; w = d * LEVELS[q]

Layout and search: block_iq4_nl and quantize_row_iq4_nl_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_table import fit_table, level_of, nearest_quant
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.nibbles import pack_nibbles, unpack_nibbles
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ4_NL


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    weighed = v.reals(32)
    if importance:
        weigh(v, weighed, importance.columns, x, 2.0 * mean_square(v, x, 32), 32)
    else:
        for i in v.loop(0, 32):
            weighed[i] = x[i] * x[i]
    scale = fit_table(v, x, weighed)
    inverse = v.reciprocal(scale)
    quants = v.wholes(32)
    for i in v.loop(0, 32):
        quants[i] = nearest_quant(v, inverse * x[i])
    block.store_short(0, v.half(scale))
    block.store(2, pack_nibbles(v, quants), 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, quants = block.load_short(0).half(), unpack_nibbles(v, block.load(2, 4))
    for i in v.loop(0, 32):
        x[i] = d * level_of(v, quants[i])
