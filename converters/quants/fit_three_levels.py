"""What the searches of IQ1_S and IQ1_M have in common: levels -1, 0 and 1, all shifted a little up or down.

With only three levels the best split is found by trying all: the weights are sorted, and two boundaries cut them into
those that get -1, 0 and 1. Only then are the points sought that are on the grid.

quantize_row_iq1_s_impl and quantize_row_iq1_m_impl in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.quants.nearest_point import PointSearch
from converters.quants.three_levels import SHIFT
from converters.quants.vector import Machine, Mask, Real, Reals, Whole, Wholes


def sort_rows(v: Machine, keys: Reals, companions: Sequence[Reals], n: int) -> None:
    """Rising; what is equal stays in order. Neighbours change places, the even pairs and the odd ones in turn.

    ggml sorts with qsort, which keeps the order of equals in glibc (but for 2.37), and so these are its bytes there.
    """
    for _ in v.loop(0, n // 2, unroll=1):
        for start in (0, 1):
            for pair in v.loop(0, (n - start) // 2):
                i = 2 * pair + start
                falls = keys[i] > keys[i + 1]
                for row in (keys, *companions):
                    a, b = row[i], row[i + 1]
                    row[i], row[i + 1] = v.select(falls, b, a), v.select(falls, a, b)


@dataclass(frozen=True)
class Sorted:
    """n weights in rising order: weights, what each counts, and where it stood."""

    weights: Reals
    counts: Reals
    places: Reals
    n: int

    @classmethod
    def of(cls, v: Machine, x: Reals, weighed: Reals, n: int) -> Sorted:
        rows = cls(v.reals(n), v.reals(n), v.reals(n), n)
        for i in v.loop(0, n):
            rows.weights[i], rows.counts[i], rows.places[i] = x[i], weighed[i], v.real(i)
        sort_rows(v, rows.weights, (rows.counts, rows.places), n)
        return rows

    def levels(self, v: Machine, first_zero: Real, first_one: Real, *, swapped: Mask) -> Reals:
        """0, 1 or 2 for each weight where it stood: 1 from first_zero on, 2 from first_one on. Spoils the order.

        swapped: where 0 and 2 change places.
        """
        levels = v.reals(self.n)
        for i in v.loop(0, self.n):
            level = v.select(v.real(i) >= first_zero, v.select(v.real(i) >= first_one, v.real(2.0), 1.0), 0.0)
            levels[i] = v.select(swapped, 2.0 - level, level)
        sort_rows(v, self.places, (levels,), self.n)
        return levels


def find_points(
    v: Machine,
    search: PointSearch,
    levels: Reals,
    x: Reals,
    weighed: Reals,
    points: Wholes,
    scale: Real,
    shifts: Sequence[Real],
) -> Real:
    """The nearest points on the grid, one for each of the shifts, and the scale that is best for them."""
    all_hit = v.as_whole(1)
    for k, shift in enumerate(shifts):
        eight, w = x.part(8 * k), weighed.part(8 * k)
        given = [*(eight[i] for i in range(8)), *(w[i] for i in range(8)), scale, shift]
        whole = [v.truncate(levels[8 * k + i]) for i in range(8)]
        points[k], hit = search.nearest(v, whole, given, _error)
        all_hit = all_hit & hit
    sum_xq = sum_q2 = v.real(0.0)
    for k, shift in enumerate(shifts):
        for i in range(8):
            counts, q = weighed[8 * k + i], shifted(search.level(points[k], i), shift)
            sum_xq, sum_q2 = sum_xq + counts * q * x[8 * k + i], sum_q2 + counts * q * q
    better = all_hit.equals(0) & (sum_xq > 0.0) & (sum_q2 > 0.0)
    return v.select(better, sum_xq / sum_q2, scale)


def _error(given: Sequence[Real], i: int, level: Whole) -> Real:
    scale, shift = given[16:]
    difference = scale * shifted(level, shift) - given[i]
    return given[8 + i] * difference * difference


def shifted(level: Whole, shift: Real) -> Real:
    return (level - 1).real() + shift


def shift_where(v: Machine, down: Mask) -> Real:
    return v.select(down, v.real(-SHIFT), SHIFT)
