"""IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight, as eight sub-blocks of 32, each eight points of a grid.

      0  d       float16: scale
      2  qs      64 bytes: the low eight bits of each point's index; a point has four weights
     66  qh      8 bytes: the ninth bits of eight indices, from the low bits up
     74  signs   32 bytes: eight signs of each pair of points
    106  scales  4 bytes: four bits for each sub-block, the first one low

    w = d * (2 * scale + 1) * (2 * level + 1)

Layout and search: block_iq3_s and quantize_row_iq3_s_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants import grids
from converters.quants.fit_points import PointFit, fit_sub_blocks, quantize_scales
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.nearest_point import PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.signed_points import place
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ3_S


_FIT = PointFit(n=32, n_trials=19, step=0.2, even_signs=False, tiny=2.0**-149, again="all if missed")


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ3_S, n_levels=8, n_distances=3))
    weighed = v.reals(256)
    if importance:
        weigh(v, weighed, importance.columns, x, 2.0 * mean_square(v, x, 256), 256)
    else:
        for i in v.loop(0, 256):
            weighed[i] = x[i] * x[i]
    found = fit_sub_blocks(v, search, x, weighed, _FIT)
    d, scales, _ = quantize_scales(v, found.scales, 8, fudge=1.033)
    low, high = v.wholes(64), v.wholes(64)
    for k in v.loop(0, 64, unroll=1):
        place = search.place(v, found.points[k])
        low[k], high[k] = place & 255, place >> 8
    block.store_short(0, d)
    block.store(2, join(v, low, 64, 8), 16)
    block.store(66, join(v, high, 64, 1), 2)
    block.store(74, join(v, found.signs, 32, 8), 8)
    block.store(106, join(v, scales, 8, 4), 1)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ3_S.points)
    d, low, high = block.load_short(0).half(), split(v, block.load(2, 16), 64, 8), split(v, block.load(66, 2), 64, 1)
    signs, scales = split(v, block.load(74, 8), 32, 8), split(v, block.load(106, 1), 8, 4)
    for j in v.loop(0, 8, unroll=1):
        scale = d * (scales[j] * 2 + 1).real()
        for k in range(4):
            pair = [points[low[8 * j + i] | high[8 * j + i] << 8] for i in (2 * k, 2 * k + 1)]
            values = [scale * ((point >> 3 * i & 7) * 2 + 1).real() for point in pair for i in range(4)]
            place(x.part(32 * j + 8 * k), values, signs[4 * j + k])
