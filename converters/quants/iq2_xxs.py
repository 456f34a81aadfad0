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
from converters.quants.fit_points import PointFit, fit_sub_blocks, quantize_scales
from converters.quants.fit_positive import fit_positive
from converters.quants.fit_scale import TINY
from converters.quants.importance import Importance, mean_square, needed, weigh
from converters.quants.nearest_point import PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.signed_points import even_signs, place, two_bit_values
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ2_XXS


_FIT = PointFit(n=32, n_trials=13, step=0.1, even_signs=True, tiny=TINY, again="all")


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ2_XXS, n_levels=3, n_distances=2))
    weighed = v.reals(256)
    weigh(v, weighed, needed(importance).columns, x, mean_square(v, x, 256), 256)
    quants = v.wholes(32)
    found = fit_sub_blocks(v, search, x, weighed, _FIT, lambda x, w, _: fit_positive(v, x, w, quants, 32, top=4))
    d, scales, nothing = quantize_scales(v, found.scales, 8, fudge=1.0)
    words = v.wholes(16)
    for j in v.loop(0, 8, unroll=1):
        four = range(4)
        points = v.pack(*(search.place(v, found.points[4 * j + k]) for k in four))
        signs = v.fold(lambda a, b: a | b, scales[j] << 28, ((found.signs[4 * j + k] & 127) << 7 * k for k in four))
        words[2 * j], words[2 * j + 1] = v.select(nothing, 0, points), v.select(nothing, 0, signs)
    block.store_short(0, d)
    block.store(2, words, 16)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ2_XXS.points)
    d, words = block.load_short(0).half(), block.load(2, 16)
    for j in v.loop(0, 8, unroll=1):
        indices, signs = words[2 * j], words[2 * j + 1]
        scale = d * ((signs >> 28).real() + 0.5) * 0.25
        for k in range(4):
            point = points[indices >> 8 * k & 255]
            place(x.part(32 * j + 8 * k), two_bit_values(point, scale), even_signs(signs >> 7 * k))
