"""What the points of a grid are near to: where a search may look when weights round to a point that is not on the grid.

The lists are those of ggml, in its order, for of equally good points the first is taken: iq2xs_init_impl and
iq3xs_init_impl in ggml-quants.c.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.quants.grids import Grid

ON_GRID = 1 << 9
_LAST = ON_GRID - 1
_LIST_BITS = 10


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Lists of points, for every combination of levels: levels[0] + n_levels * levels[1] + ...

    lists: for each combination where its list begins, whether it is on the grid itself (and then its own list), and
    which place of the list is the last one. points: of the grid, as in there, list after list. places: for each
    combination that is on the grid its index there.
    """

    grid: Grid
    n_levels: int
    lists: npt.NDArray[np.int32]
    points: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]


@functools.cache
def neighbours(grid: Grid, n_levels: int, n_distances: int) -> Neighbours:
    """The points at the n_distances smallest distances that there are, by distance, then by index."""
    n_points = n_levels**grid.n_weights
    combinations = np.arange(n_points)[:, None] // n_levels ** np.arange(grid.n_weights) % n_levels
    points = np.array(grid.points, np.int32)
    levels = points[:, None] >> grid.bits * np.arange(grid.n_weights) & (1 << grid.bits) - 1
    # Sums of squares of small whole numbers: exact in float32, and fast.
    a, b = combinations.astype(np.float32), levels.astype(np.float32)
    distances = ((a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)).astype(np.int16)
    on_grid = distances.min(axis=1) == 0
    farthest = np.full((n_points, 1), -1, np.int16)
    for n in range(n_distances):
        following = np.where(distances > farthest, distances, np.int16(2**15 - 1)).min(axis=1, keepdims=True)
        farthest = following if n == 0 else np.where(on_grid[:, None], farthest, following)
    combination, index = np.nonzero(distances <= farthest)
    order = np.lexsort((index, distances[combination, index], combination))
    n_in_list = np.bincount(combination, minlength=n_points)
    first = np.cumsum(n_in_list) - n_in_list
    lists = first << _LIST_BITS | on_grid * ON_GRID | n_in_list - 1
    places = np.zeros(n_points, np.int32)
    places[on_grid] = distances[on_grid].argmin(axis=1)
    return Neighbours(grid, n_levels, lists.astype(np.int32), points[index[order]], places)
