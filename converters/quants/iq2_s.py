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
from converters.quants.fit_points import PointFit, fit_sub_blocks, quantize_scales
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.nearest_point import PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.signed_points import place, two_bit_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ2_S


_FIT = PointFit(n=16, n_trials=19, step=0.1, even_signs=False, tiny=1e-8, again="missed")


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ2_S, n_levels=3, n_distances=1))
    weighed, spread = v.reals(256), 2.0 * mean_square(v, x, 256)
    if importance:
        weigh(v, weighed, importance.columns, x, spread, 256)
    else:
        for i in v.loop(0, 256):
            weighed[i] = 0.25 * spread + x[i] * x[i]
    found = fit_sub_blocks(v, search, x, weighed, _FIT)
    d, scales, _ = quantize_scales(v, found.scales, 16, fudge=0.9875)
    low, high = v.wholes(32), v.wholes(32)
    for k in v.loop(0, 32, unroll=1):
        place = search.place(v, found.points[k])
        low[k], high[k] = place & 255, place >> 8
    block.store_short(0, d)
    block.store(2, join(v, low, 32, 8), 8)
    block.store(34, join(v, found.signs, 32, 8), 8)
    block.store(66, join(v, high, 32, 2), 2)
    block.store(74, join(v, scales, 16, 4), 2)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ2_S.points)
    d, low, signs = block.load_short(0).half(), split(v, block.load(2, 8), 32, 8), split(v, block.load(34, 8), 32, 8)
    high, scales = split(v, block.load(66, 2), 32, 2), split(v, block.load(74, 2), 16, 4)
    for j in v.loop(0, 16, unroll=1):
        scale = d * (scales[j].real() + 0.5) * 0.25
        for k in range(2):
            point = points[low[2 * j + k] | high[2 * j + k] << 8]
            place(x.part(16 * j + 8 * k), two_bit_values(point, scale), signs[2 * j + k])
