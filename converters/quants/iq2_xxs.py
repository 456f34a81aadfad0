"""IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight, as eight sub-blocks of 32, each four points of a grid.

    0  d   float16: scale
    2  qs  64 bytes: for each sub-block four bytes, the points; then a word: from the low bits up seven signs of each
           point (see signed_points), and four bits of scale

    w = d * (scale + 0.5) / 4 * level

Layout and search: block_iq2_xxs and quantize_row_iq2_xxs_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.signed_points import even_signs, place, two_bit_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ2_XXS


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ2_XXS.points)
    d, words = block.load_short(0).half(), block.load(2, 16)
    for j in v.loop(0, 8, unroll=1):
        indices, signs = words[2 * j], words[2 * j + 1]
        scale = d * ((signs >> 28).real() + 0.5) * 0.25
        for k in range(4):
            point = points[indices >> 8 * k & 255]
            place(x.part(32 * j + 8 * k), two_bit_values(point, scale), even_signs(signs >> 7 * k))
