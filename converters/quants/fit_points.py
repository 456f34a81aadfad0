"""The search of IQ2 and IQ3: weight = ±scale * (2 * level + 1), where the levels are points of a grid.

The signs are taken off first. Then scales near the one that puts the largest weight at the highest level are tried; for
the points that each trial gives, the best scale is known in closed form, and the least error of squares wins. At last
the points are sought anew with the scale that was found.

quantize_row_iq2_xxs_impl, quantize_row_iq2_xs_impl, quantize_row_iq2_s_impl, quantize_row_iq3_xxs_impl and
quantize_row_iq3_s_impl in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from converters.quants.nearest_point import PointSearch
from converters.quants.vector import Machine, Mask, Real, Reals, Whole, Wholes


@dataclass(frozen=True)
class PointFit:
    """How a type searches.

    n: weights in a sub-block, which share a scale. n_trials scales are tried, `step` levels apart. even_signs: see
    take_signs. tiny: a sub-block whose magnitudes are all smaller counts as zero. again: which points are sought anew
    in the end: those that rounding did not hit, all if there is such a one, or all.
    """

    n: int
    n_trials: int
    step: float
    even_signs: bool
    tiny: float
    again: Literal["missed", "all if missed", "all"]


@dataclass(frozen=True)
class SubBlocks:
    """Of 256 weights. scales: not below zero. points: levels side by side. signs: eight bits for each eight weights."""

    scales: Reals
    points: Wholes
    signs: Wholes


def fit_sub_blocks(
    v: Machine,
    search: PointSearch,
    x: Reals,
    weighed: Reals,
    fit: PointFit,
    first_scale: Callable[[Reals, Reals, Real], Real] | None = None,
) -> SubBlocks:
    """first_scale(magnitudes, weighed, largest): to begin with, if not the largest at the highest level."""
    n, highest = fit.n, 2 * search.n_levels - 1
    found = SubBlocks(v.reals(256 // n), v.wholes(256 // search.n_weights), v.wholes(32))
    magnitudes = v.reals(n)
    for j in v.loop(0, 256 // n, unroll=1):
        signs, points, w = (
            found.signs.part(n // 8 * j),
            found.points.part(n // search.n_weights * j),
            weighed.part(n * j),
        )
        _take_signs(v, x.part(n * j), w, magnitudes, signs, fit)
        largest = v.fold(v.larger, magnitudes[0], (magnitudes[i] for i in v.loop(1, n, unroll=8)))
        empty = largest < fit.tiny
        if first_scale:
            scale = first_scale(magnitudes, w, largest)
            empty, largest = ~(~empty & ~(scale <= 0.0)), scale * float(search.n_levels)
        else:
            scale = largest / float(highest)
        scale = _fit(v, search, magnitudes, w, points, fit, scale, largest)
        for k in range(n // search.n_weights):
            points[k] = v.select(empty, 0, points[k])
        for k in range(n // 8):
            signs[k] = v.select(empty, 0, v.select(scale < 0.0, signs[k] ^ 255, signs[k]))
        found.scales[j] = v.select(empty, 0.0, abs(scale))
    return found


def _take_signs(v: Machine, x: Reals, weighed: Reals, magnitudes: Reals, signs: Wholes, fit: PointFit) -> None:
    """magnitudes[i] = ±x[i], and the signs of each eight weights, bit i set where x[i] is negative.

    Where their number has to be even and is odd, the weight that counts least gets the wrong sign, and so a negative
    magnitude.
    """
    for k in v.loop(0, fit.n // 8, unroll=1):
        eight, counts, out = x.part(8 * k), weighed.part(8 * k), magnitudes.part(8 * k)
        negative = [v.select(eight[i] >= 0.0, v.as_whole(0), 1) for i in range(8)]
        byte = v.bits(*negative)
        if fit.even_signs:
            odd = v.fold(lambda a, b: a ^ b, v.as_whole(0), negative)
            least, where = counts[0] * eight[0] * eight[0], v.as_whole(1)
            for i in range(1, 8):
                count = counts[i] * eight[i] * eight[i]
                where = v.select(count < least, 1 << i, where)
                least = v.smaller(least, count)
            byte = byte ^ v.select(odd.equals(0), 0, where)
        for i in range(8):
            out[i] = v.select((byte >> i & 1).equals(0), eight[i], -eight[i])
        signs[k] = byte


def _fit(
    v: Machine,
    search: PointSearch,
    magnitudes: Reals,
    weighed: Reals,
    found: Wholes,
    fit: PointFit,
    scale: Real,
    largest: Real,
) -> Real:
    """The scale of a sub-block, and the points it goes with. largest: what the highest level is to be near to."""
    n_points, highest = fit.n // search.n_weights, 2 * search.n_levels - 1
    roots = v.reals(fit.n)
    for i in v.loop(0, fit.n):
        roots[i] = v.sqrt(weighed[i])
    points, hit, found_hit = v.wholes(n_points), v.wholes(n_points), v.wholes(n_points)
    for k in range(n_points):
        found[k], found_hit[k] = v.as_whole(0), v.as_whole(0 if fit.again == "all if missed" else 1)

    def seek(k: int, inverse: Real, scale: Real) -> tuple[Whole, Whole]:
        first = search.n_weights * k
        x, w = magnitudes.part(first), roots.part(first)
        levels = [
            v.nearest_whole(0.5 * (inverse * x[i] - 1.0)).clamp(0, search.n_levels - 1) for i in range(search.n_weights)
        ]
        given = [*(x[i] for i in range(search.n_weights)), *(w[i] for i in range(search.n_weights)), scale]
        return search.nearest(v, levels, given, error)

    def error(given: Sequence[Real], i: int, level: Whole) -> Real:
        difference = given[-1] * (level * 2 + 1).real() - given[i]
        return given[search.n_weights + i] * difference * difference

    def sums(points: Wholes) -> tuple[Real, ...]:
        totals = v.kept(xq=v.real(0.0), q2=v.real(0.0))
        for k in v.loop(0, n_points, unroll=1):
            xq, q2 = totals["xq"], totals["q2"]
            for i in range(search.n_weights):
                w, x = weighed[search.n_weights * k + i], magnitudes[search.n_weights * k + i]
                q = (search.level(points[k], i) * 2 + 1).real()
                xq, q2 = xq + w * x * q, q2 + w * q * q
            totals.set(xq=xq, q2=q2)
        return totals["xq"], totals["q2"]

    best = v.kept(scale=scale, score=v.real(0.0))
    for trial in v.loop(0, fit.n_trials, unroll=1):
        steps = (v.real(trial) - float(fit.n_trials // 2)) * fit.step
        inverse = (steps + float(highest)) / largest
        for k in v.loop(0, n_points, unroll=1):
            points[k], hit[k] = seek(k, inverse, 1.0 / inverse)
        sum_xq, sum_q2 = sums(points)
        better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
        scale = sum_xq / sum_q2
        best.keep(better, scale=scale, score=scale * sum_xq)
        for k in range(n_points):
            found[k] = v.select(better, points[k], found[k])
            found_hit[k] = v.select(better, hit[k], found_hit[k])

    scale = best["scale"]
    all_hit = v.fold(lambda a, b: a & b, v.as_whole(1), (found_hit[k] for k in range(n_points))).equals(1)
    anew = scale > 0.0 if fit.again == "all" else (scale > 0.0) & ~all_hit
    inverse = 1.0 / scale
    for k in v.loop(0, n_points, unroll=1):
        point, _ = seek(k, inverse, scale)
        this = anew & found_hit[k].equals(0) if fit.again == "missed" else anew
        found[k] = v.select(this, point, found[k])
    sum_xq, sum_q2 = sums(found)
    return v.select(anew & (sum_q2 > 0.0), sum_xq / sum_q2, scale)


def quantize_scales(v: Machine, scales: Reals, n: int, *, fudge: float) -> tuple[Whole, Wholes, Mask]:
    """d as float16, the scales as four bits each, and where all of them are zero: scale = d * (2 * q + 1)."""
    largest = v.fold(v.larger, v.real(0.0), (scales[j] for j in range(n)))
    nothing = largest.equals(0.0)
    d = largest / 31.0
    inverse = 1.0 / d
    quants = v.wholes(n)
    for j in range(n):
        quants[j] = v.select(nothing, 0, v.nearest_whole(0.5 * (inverse * scales[j] - 1.0)).clamp(0, 15))
    return v.select(nothing, 0, v.half(d * fudge)), quants, nothing
