"""IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight, as sixteen sub-blocks of 16, each two points of a grid.

     0  d       float16: scale
     2  qs      32 bytes: the low eight bits of each point's index
    34  signs   32 bytes: eight signs of each point
    66  qh      8 bytes: the high two bits of four indices, from the low bits up
    74  scales  8 bytes: four bits for each sub-block, the first one low

    w = d * (scale + 0.5) / 4 * level

Layout and search: block_iq2_s and quantize_row_iq2_s_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.pieces import split
from converters.quants.signed_points import place, two_bit_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ2_S


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ2_S.points)
    d, low, signs = block.load_short(0).half(), split(v, block.load(2, 8), 32, 8), split(v, block.load(34, 8), 32, 8)
    high, scales = split(v, block.load(66, 2), 32, 2), split(v, block.load(74, 2), 16, 4)
    for j in v.loop(0, 16, unroll=1):
        scale = d * (scales[j].real() + 0.5) * 0.25
        for k in range(2):
            point = points[low[2 * j + k] | high[2 * j + k] << 8]
            place(x.part(16 * j + 8 * k), two_bit_values(point, scale), signs[2 * j + k])
