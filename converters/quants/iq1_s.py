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
from converters.quants.fit_three_levels import Sorted, find_points, shift_where
from converters.quants.importance import Importance, mean_square, needed, weigh
from converters.quants.nearest_point import LARGEST, PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.three_levels import SHIFT, three_level_values
from converters.quants.vector import Block, Kept, Machine, Real, Reals

DTYPE = dtypes.IQ1_S

_TINY = 1e-12  # GROUP_MAX_EPS_IQ1_S
_SHIFTS = (SHIFT, -SHIFT)


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ1, n_levels=3, n_distances=3))
    weighed, scales, downs, points = v.reals(256), v.reals(8), v.wholes(8), v.wholes(32)
    weigh(v, weighed, needed(importance).columns, x, 2.0 * mean_square(v, x, 256), 256)
    for j in v.loop(0, 8, unroll=1):
        sub, w, four = x.part(32 * j), weighed.part(32 * j), points.part(4 * j)
        in_order = Sorted.of(v, sub, w, 32)
        best = _best_split(v, in_order)
        down = best["shift"] < 0.0
        negative = best["scale"] < 0.0
        levels = in_order.levels(v, best["first_zero"], best["first_one"], swapped=negative)
        down = ~(~(down & ~negative) & ~(~down & negative))
        shift = shift_where(v, down)
        scale = find_points(v, search, levels, sub, w, four, abs(best["scale"]), [shift] * 4)
        largest = v.fold(v.larger, v.real(0.0), (abs(sub[i]) for i in v.loop(0, 32)))
        empty = ~(~(largest < _TINY) & ~best["shift"].equals(0.0))
        for k in range(4):
            four[k] = v.select(empty, 0, four[k])
        scales[j] = v.select(empty, 0.0, scale)
        downs[j] = v.select(~empty & down, v.as_whole(1), 0)

    largest = v.fold(v.larger, v.real(0.0), (scales[j] for j in range(8)))
    nothing = largest.equals(0.0)
    d = largest / 15.0
    inverse = 1.0 / d
    low, shorts = v.wholes(32), v.wholes(8)
    for j in v.loop(0, 8, unroll=1):
        scale_quant = v.nearest_whole(0.5 * (inverse * scales[j] - 1.0)).clamp(0, 7) | downs[j] << 3
        short = v.select(nothing, 0, scale_quant << 12)
        for k in range(4):
            place = search.place(v, points[4 * j + k])
            low[4 * j + k] = place & 255
            short = short | (place >> 8) << 3 * k
        shorts[j] = short
    block.store_short(0, v.select(nothing, 0, v.half(d * 1.125)))
    block.store(2, join(v, low, 32, 8), 8)
    block.store(34, join(v, shorts, 8, 16), 4)


def _best_split(v: Machine, in_order: Sorted) -> Kept:
    """Of 32 weights. shift is 0 where there is none."""
    sum_x, sum_w = v.reals(33), v.reals(33)
    sum_x[0] = sum_w[0] = v.real(0.0)
    for i in v.loop(0, 32, unroll=1):
        w = in_order.counts[i]
        sum_x[i + 1], sum_w[i + 1] = sum_x[i] + w * in_order.weights[i], sum_w[i] + w
    zero = v.real(0.0)
    best = v.kept(score=v.real(-LARGEST), scale=zero, first_zero=zero, first_one=zero, shift=zero)

    def part(q: float, start: int, stop: int) -> tuple[Real, Real]:
        """Of weight * quant, and of quant * quant."""
        return (sum_x[stop] - sum_x[start]) * q, (sum_w[stop] - sum_w[start]) * q * q

    for first_zero in v.loop(0, 33, unroll=1):
        lows = [part(-1.0 + shift, 0, first_zero) for shift in _SHIFTS]
        for first_one in v.loop(first_zero, 33, unroll=1):
            for shift, low in zip(_SHIFTS, lows, strict=True):
                middle, top = part(shift, first_zero, first_one), part(1.0 + shift, first_one, 32)
                sum_xq, sum_q2 = (a + b + c for a, b, c in zip(low, middle, top, strict=True))
                better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
                scale = sum_xq / sum_q2
                best.keep(better, score=scale * sum_xq, scale=scale, shift=v.real(shift))
                best.keep(better, first_zero=v.real(first_zero), first_one=v.real(first_one))
    return best


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    points = v.table(grids.IQ1.points)
    d, low, shorts = block.load_short(0).half(), split(v, block.load(2, 8), 32, 8), split(v, block.load(34, 4), 8, 16)
    for j in v.loop(0, 8, unroll=1):
        scale = d * ((shorts[j] >> 12 & 7) * 2 + 1).real()
        for k in range(4):
            point = points[low[4 * j + k] | (shorts[j] >> 3 * k & 7) << 8]
            for i, value in enumerate(three_level_values(v, point, scale, shorts[j] >> 15)):
                x[32 * j + (8 * k + i)] = value
