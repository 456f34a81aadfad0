"""The point of a grid that is nearest to some weights, among the neighbours of where they would round to.

iq2_find_best_neighbour, iq3_find_best_neighbour and iq1_find_best_neighbour2 in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.quants.neighbours import ON_GRID, Neighbours
from converters.quants.vector import Machine, PointError, Real, Table, Whole

LARGEST = float.fromhex("0x1.fffffep127")  # FLT_MAX


@dataclass(frozen=True)
class PointSearch:
    """The tables of a grid and its neighbours. A point is a number, its levels side by side."""

    n_weights: int
    bits: int
    n_levels: int
    lists: Table
    points: Table
    places: Table

    @classmethod
    def over(cls, v: Machine, near: Neighbours) -> PointSearch:
        tables = (v.table(numbers.tolist()) for numbers in (near.lists, near.points, near.places))
        return cls(near.grid.n_weights, near.grid.bits, near.n_levels, *tables)

    def combination(self, v: Machine, levels: Sequence[Whole]) -> Whole:
        """One number for all the levels, the first one lowest."""
        return v.fold(lambda number, level: number * self.n_levels + level, levels[-1], reversed(levels[:-1]))

    def level(self, point: Whole, i: int) -> Whole:
        return point >> self.bits * i & (1 << self.bits) - 1

    def place(self, v: Machine, point: Whole) -> Whole:
        """The index of a point that is on the grid."""
        return self.places[self.combination(v, [self.level(point, i) for i in range(self.n_weights)])]

    def nearest(
        self, v: Machine, levels: Sequence[Whole], given: Sequence[Real], error: PointError
    ) -> tuple[Whole, Whole]:
        """The point on the grid for which the sum of its weights' errors is least, and whether these levels are it.

        Where all sums overflow ggml gives up: here the first.
        """
        entry = self.lists[self.combination(v, levels)]
        first, last, hit = entry >> 10, entry & (ON_GRID - 1), entry >> 9 & 1
        return v.least(self.points, first, last, given, self.n_weights, self.bits, error), hit
