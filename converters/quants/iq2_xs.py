"""IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight, as sixteen sub-blocks of 16, each two points of a grid.

     0  d       float16: scale
     2  qs      32 shorts: nine bits for the point, seven for its signs (see signed_points)
    66  scales  8 bytes: four bits for each sub-block, the first one low

    w = d * (scale + 0.5) / 4 * level

Layout and search: block_iq2_xs and quantize_row_iq2_xs_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.fit_points import PointFit, fit_sub_blocks, quantize_scales
from converters.quants.fit_scale import TINY
from converters.quants.importance import Importance, mean_square, needed, weigh
from converters.quants.nearest_point import PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.signed_points import even_signs, place, two_bit_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ2_XS


_FIT = PointFit(n=16, n_trials=19, step=0.1, even_signs=True, tiny=TINY, again="missed")


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ2_XS, n_levels=3, n_distances=2))
    weighed = v.reals(256)
    weigh(v, weighed, needed(importance).columns, x, mean_square(v, x, 256), 256)
    found = fit_sub_blocks(v, search, x, weighed, _FIT)
    d, scales, nothing = quantize_scales(v, found.scales, 16, fudge=1.0)
    shorts = v.wholes(32)
    for k in v.loop(0, 32, unroll=1):
        short = search.place(v, found.points[k]) | (found.signs[k] & 127) << 9
        shorts[k] = v.select(nothing, 0, short)
    block.store_short(0, d)
    block.store(2, join(v, shorts, 32, 16), 16)
    block.store(66, join(v, scales, 16, 4), 2)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ2_XS.points)
    d, words, scales = block.load_short(0).half(), block.load(2, 16), split(v, block.load(66, 2), 16, 4)
    for j in v.loop(0, 16, unroll=1):
        scale = d * (scales[j].real() + 0.5) * 0.25
        for k in range(2):
            short = words[j] >> 16 * k
            place(x.part(16 * j + 8 * k), two_bit_values(points[short & 511], scale), even_signs(short >> 9))
