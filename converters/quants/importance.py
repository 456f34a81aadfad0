"""How much each weight counts in a search when calibration text has shown what the columns are used for.

A column's importance is the mean square of what it is multiplied with; ggml has it count the more, the larger the
weight itself: importance * sqrt(spread + w * w), where spread is a mean square of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.quants.vector import Machine, Real, Reals


@dataclass(frozen=True)
class Importance:
    """columns: the importance of each weight of the block. row_mean_square: of the weights of the block's whole row."""

    columns: Reals
    row_mean_square: Real


def weigh(v: Machine, weighed: Reals, columns: Reals, x: Reals, spread: Real, n: int) -> None:
    """weighed[i] = what weight i counts, for n weights."""
    for i in v.loop(0, n):
        weighed[i] = columns[i] * v.sqrt(spread + x[i] * x[i])


def mean_square(v: Machine, x: Reals, n: int) -> Real:
    return v.sum(x[i] * x[i] for i in v.loop(0, n, unroll=16)) / float(n)
