"""IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight, as sixteen sub-blocks of 16, each two points of a grid.

     0  qs      32 bytes: the low eight bits of each point's index
    32  qh      16 bytes: for each of two points the high three bits of its index and one of shift, the first point low
    48  scales  4 shorts: from the low bits up three bits of scale for four sub-blocks, and four of the float16 d

    w = d * (2 * scale + 1) * (level - 1 + 1/8), or where the shift is set - 1/8

Layout and search: block_iq1_m and quantize_row_iq1_m_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable

from converters import dtypes
from converters.quants import grids
from converters.quants.fit_three_levels import Sorted, find_points, shift_where, shifted
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.nearest_point import LARGEST, PointSearch
from converters.quants.neighbours import neighbours
from converters.quants.pieces import join, split
from converters.quants.three_levels import SHIFT, three_level_values
from converters.quants.vector import Block, Kept, Machine, Real, Reals

DTYPE = dtypes.IQ1_M

_TINY = 1e-7  # GROUP_MAX_EPS_IQ1_M
_SHIFTS = (SHIFT, -SHIFT)
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))  # the shifts of the two points of a sub-block


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    search = PointSearch.over(v, neighbours(grids.IQ1, n_levels=3, n_distances=3))
    weighed, scales, points = v.reals(256), v.reals(16), v.wholes(32)
    shifts, downs = v.reals(32), v.wholes(32)  # of each point
    if importance:
        weigh(v, weighed, importance.columns, x, 2.0 * mean_square(v, x, 256), 256)
    else:
        for i in v.loop(0, 256):
            weighed[i] = x[i] * x[i]
    for j in v.loop(0, 16, unroll=1):
        sub, w, two = x.part(16 * j), weighed.part(16 * j), points.part(2 * j)
        in_order = Sorted.of(v, sub, w, 16)
        best = _best_split(v, in_order)
        negative = best["scale"] < 0.0
        levels = in_order.levels(v, best["first_zero"], best["first_one"], swapped=negative)
        pair = v.truncate(v.select(negative, 3.0 - best["pair"], best["pair"]))
        largest = v.fold(v.larger, v.real(0.0), (abs(sub[i]) for i in v.loop(0, 16)))
        empty = ~(~(largest < _TINY) & ~(best["pair"] < 0.0))
        for k in range(2):
            downs[2 * j + k] = v.select(empty, 0, pair >> (1 - k) & 1)
            shifts[2 * j + k] = shift_where(v, downs[2 * j + k].equals(1))
        both = [shifts[2 * j + k] for k in range(2)]
        scale = find_points(v, search, levels, sub, w, two, abs(best["scale"]), both)
        for k in range(2):
            two[k] = v.select(empty, 0, two[k])
        scales[j] = v.select(empty, 0.0, scale)

    largest = v.fold(v.larger, v.real(0.0), (scales[j] for j in range(16)))
    nothing = largest.equals(0.0)
    d = largest / 15.0
    inverse = 1.0 / d
    scale_quants, sums = v.wholes(16), v.kept(xq=v.real(0.0), q2=v.real(0.0))
    low, high = v.wholes(32), v.wholes(32)
    for j in v.loop(0, 16, unroll=1):
        quant = v.nearest_whole(0.5 * (inverse * scales[j] - 1.0)).clamp(0, 7)
        scale_quants[j] = v.select(nothing, 0, quant)
        sum_xq, sum_q2 = sums["xq"], sums["q2"]
        for k in range(2):
            point = points[2 * j + k]
            for i in range(8):
                counts = weighed[16 * j + (8 * k + i)]
                q = shifted(search.level(point, i), shifts[2 * j + k]) * (quant * 2 + 1).real()
                sum_xq, sum_q2 = sum_xq + counts * q * x[16 * j + (8 * k + i)], sum_q2 + counts * q * q
            place = search.place(v, point)
            low[2 * j + k] = place & 255
            high[2 * j + k] = place >> 8 | v.select(nothing, 0, downs[2 * j + k] << 3)
        sums.set(xq=sum_xq, q2=sum_q2)
    d = v.select(sums["q2"] > 0.0, sums["xq"] / sums["q2"], d)
    d_bits = v.select(nothing, 0, v.half(d * 1.1125))
    shorts = v.wholes(4)
    for s in range(4):
        four = (scale_quants[4 * s + i] << 3 * i for i in range(4))
        shorts[s] = v.fold(lambda a, b: a | b, (d_bits >> 4 * s & 15) << 12, four)
    block.store(0, join(v, low, 32, 8), 8)
    block.store(32, join(v, high, 32, 4), 4)
    block.store(48, join(v, shorts, 4, 16), 2)


def _best_split(v: Machine, in_order: Sorted) -> Kept:
    """Of 16 weights. pair, the place in _PAIRS, is -1 where there is none.

    Sums up to each place of the order are taken once, for the weights of either point by themselves, as ggml does. Its
    older versions (b9993) added up anew for each split, which comes out otherwise in one block of a thousand.
    """
    sums = [(v.reals(17), v.reals(17)) for _ in range(2)]
    for half, (sum_x, sum_w) in enumerate(sums):
        sum_x[0] = sum_w[0] = v.real(0.0)
        for i in v.loop(0, 16, unroll=1):
            x, w, here = in_order.weights[i], in_order.counts[i], in_order.places[i] < 8.0
            here = ~here if half else here
            sum_x[i + 1] = v.select(here, sum_x[i] + w * x, sum_x[i])
            sum_w[i + 1] = v.select(here, sum_w[i] + w, sum_w[i])

    zero = v.real(0.0)
    best = v.kept(score=v.real(-LARGEST), scale=zero, first_zero=zero, first_one=zero, pair=v.real(-1.0))
    for first_zero in v.loop(0, 17, unroll=1):
        begun = [[_begin(*rows, first_zero, shift) for shift in _SHIFTS] for rows in sums]
        for first_one in v.loop(first_zero, 17, unroll=1):
            found = [[finish(first_one) for finish in finishes] for finishes in begun]
            for p, (first, second) in enumerate(_PAIRS):
                sum_xq, sum_q2 = (a + b for a, b in zip(found[0][first], found[1][second], strict=True))
                better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
                scale = sum_xq / sum_q2
                best.keep(better, score=scale * sum_xq, scale=scale, pair=v.real(p))
                best.keep(better, first_zero=v.real(first_zero), first_one=v.real(first_one))
    return best


def _begin(sum_x: Reals, sum_w: Reals, first_zero: int, shift: float) -> Callable[[int], tuple[Real, Real]]:
    """The sums of weight * quant and of quant * quant, for any second boundary. Quants are one apart."""
    low, middle, top = (level + shift for level in (-1.0, 0.0, 1.0))
    all_top, x_below = sum_x[16] * top, sum_x[first_zero]
    below = sum_w[16] * top * top + sum_w[first_zero] * (low * low - middle * middle)

    def finish(first_one: int) -> tuple[Real, Real]:
        q2 = below + sum_w[first_one] * (middle * middle - top * top)
        return all_top - (x_below + sum_x[first_one]), q2

    return finish


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
