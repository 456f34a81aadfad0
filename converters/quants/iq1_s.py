"""IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight, as eight sub-blocks of 32, each four points of a grid.

     0  d   float16: scale
     2  qs  32 bytes: the low eight bits of each point's index
    34  qh  8 shorts: from the low bits up the high three bits of four indices, three bits of scale, one of shift

    w = d * (2 * scale + 1) * (level - 1 + 1/8), or where the shift is set - 1/8

Layout and search: block_iq1_s and quantize_row_iq1_s_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.pieces import split
from converters.quants.three_levels import three_level_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ1_S


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ1.points)
    d, low, shorts = block.load_short(0).half(), split(v, block.load(2, 8), 32, 8), split(v, block.load(34, 4), 8, 16)
    for j in v.loop(0, 8, unroll=1):
        scale = d * ((shorts[j] >> 12 & 7) * 2 + 1).real()
        for k in range(4):
            point = points[low[4 * j + k] | (shorts[j] >> 3 * k & 7) << 8]
            for i, value in enumerate(three_level_values(v, point, scale, shorts[j] >> 15)):
                x[32 * j + (8 * k + i)] = value
