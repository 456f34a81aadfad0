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
from converters.quants.fit_points import PointFit, fit_sub_blocks, quantize_scales
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.nearest_point import PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.signed_points import even_signs, place
from converters.quants.vector import Block, Machine, Real, Reals, Whole

DTYPE = dtypes.IQ3_XXS


_FIT = PointFit(n=32, n_trials=31, step=0.2, even_signs=True, tiny=1e-8, again="missed")


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ3_XXS, n_levels=8, n_distances=2))
    weighed = v.reals(256)
    if importance:
        weigh(v, weighed, importance.columns, x, 2.0 * mean_square(v, x, 256), 256)
    else:
        for i in v.loop(0, 256):
            weighed[i] = x[i] * x[i]
    found = fit_sub_blocks(v, search, x, weighed, _FIT)
    d, scales, nothing = quantize_scales(v, found.scales, 8, fudge=1.0125)
    places, signs = v.wholes(64), v.wholes(8)
    for k in v.loop(0, 64, unroll=1):
        places[k] = v.select(nothing, 0, search.place(v, found.points[k]))
    for j in v.loop(0, 8, unroll=1):
        seven = ((found.signs[4 * j + k] & 127) << 7 * k for k in range(4))
        signs[j] = v.select(nothing, 0, v.fold(lambda a, b: a | b, scales[j] << 28, seven))
    block.store_short(0, d)
    block.store(2, join(v, places, 64, 8), 16)
    block.store(66, signs, 8)


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
