"""How much each weight counts in a search when calibration text has shown what the columns are used for.

A column's importance is the mean square of what it is multiplied with; ggml has it count the more, the larger the
weight itself: importance * sqrt(spread + w * w), where spread is a mean square of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters import dtypes
from converters.quants.vector import Machine, Real, Reals

# Their spread is that of the whole row; the others take that of the block at hand.
WEIGHED_BY_ROW = frozenset({dtypes.Q4_0, dtypes.Q4_1, dtypes.Q5_0, dtypes.Q5_1})


@dataclass(frozen=True)
class Importance:
    """columns: the importance of each weight of the block. row_mean_square: of the weights of its whole row, for
    the types of WEIGHED_BY_ROW; 0 for others.
    """

    columns: Reals
    row_mean_square: Real


def weigh(v: Machine, weighed: Reals, columns: Reals, x: Reals, spread: Real, n: int) -> None:
    """weighed[i] = what weight i counts, for n weights."""
    for i in v.loop(0, n):
        weighed[i] = columns[i] * v.sqrt(spread + x[i] * x[i])


def mean_square(v: Machine, x: Reals, n: int) -> Real:
    return v.sum(x[i] * x[i] for i in v.loop(0, n, unroll=8)) / float(n)


def needed(importance: Importance | None) -> Importance:
    """For the searches that ggml does not do without one. Raises ValueError where there is none."""
    if importance is None:
        raise ValueError("this type cannot be searched without importance")
    return importance
