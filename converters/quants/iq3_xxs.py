"""IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight, as eight sub-blocks of 32, each eight points of a grid.

     0  d      float16: scale
     2  qs     64 bytes: the points, of four weights each
    66  signs  8 words: from the low bits up seven signs of each pair of points (see signed_points), four bits of scale

    w = d * (scale + 0.5) / 2 * level

Layout and search: block_iq3_xxs and quantize_row_iq3_xxs_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.pieces import split
from converters.quants.signed_points import even_signs, place
from converters.quants.vector import Block, Machine, Real, Reals, Whole

DTYPE = dtypes.IQ3_XXS


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ3_XXS.points)
    d, indices, signs = block.load_short(0).half(), split(v, block.load(2, 16), 64, 8), block.load(66, 8)
    for j in v.loop(0, 8, unroll=1):
        scale = d * ((signs[j] >> 28).real() + 0.5) * 0.5
        for k in range(4):
            pair = [points[indices[8 * j + (2 * k + p)]] for p in range(2)]
            values = [scale * _worth(v, point >> 3 * i & 7) for point in pair for i in range(4)]
            place(x.part(32 * j + 8 * k), values, even_signs(signs[j] >> 7 * k))


def _worth(v: Machine, level: Whole) -> Real:
    """4, 12, ..., 52, and 62."""
    return v.select(level.equals(7), 62, (level << 3) + 4).real()
