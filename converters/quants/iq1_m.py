"""IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight, as sixteen sub-blocks of 16, each two points of a grid.

     0  qs      32 bytes: the low eight bits of each point's index
    32  qh      16 bytes: for each of two points the high three bits of its index and one of shift, the first point low
    48  scales  4 shorts: from the low bits up three bits of scale for four sub-blocks, and four of the float16 d

    w = d * (2 * scale + 1) * (level - 1 + 1/8), or where the shift is set - 1/8

Layout and search: block_iq1_m and quantize_row_iq1_m_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.pieces import split
from converters.quants.three_levels import three_level_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ1_M


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ1.points)
    low, high = split(v, block.load(0, 8), 32, 8), split(v, block.load(32, 4), 32, 4)
    shorts, scales = split(v, block.load(48, 2), 4, 16), v.wholes(16)
    for j in range(16):
        scales[j] = shorts[j // 4] >> 3 * (j % 4) & 7
    d = v.fold(lambda d, part: d | part, v.as_whole(0), (shorts[s] >> 12 << 4 * s for s in range(4))).half()
    for j in v.loop(0, 16, unroll=1):
        scale = d * (scales[j] * 2 + 1).real()
        for k in range(2):
            nibble = high[2 * j + k]
            point = points[low[2 * j + k] | (nibble & 7) << 8]
            for i, value in enumerate(three_level_values(v, point, scale, nibble >> 3)):
                x[16 * j + (8 * k + i)] = value
