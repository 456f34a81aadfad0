"""Weights out of the points of a grid, which have no sign, and signs of their own: what IQ2 and IQ3 have in common."""

from __future__ import annotations

from collections.abc import Iterable

from converters.quants.vector import Real, Reals, Whole


def even_signs(seven: Whole) -> Whole:
    """Eight signs out of the low seven bits: the eighth makes the number of those that are set even."""
    seven = seven & 127
    folded = seven ^ seven >> 4
    folded = folded ^ folded >> 2
    return seven | ((folded ^ folded >> 1) & 1) << 7


def place(x: Reals, values: Iterable[Real], signs: Whole) -> None:
    """x[i] = values[i], negative where bit i of the signs is set."""
    for i, value in enumerate(values):
        x[i] = (value.bits() ^ (signs << (31 - i) & -(2**31))).as_bits()


def two_bit_values(point: Whole, scale: Real) -> Iterable[Real]:
    """Of a point of IQ2: its levels are worth 8, 25 and 43."""
    for i in range(8):
        level = point >> 2 * i & 3
        yield scale * (level * 17 + (level >> 1) + 8).real()
