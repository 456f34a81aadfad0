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
from converters.quants.vector import LIST_STEP

ON_GRID = 1 << 9
_LAST = ON_GRID - 1
_LIST_BITS = 10
_FARTHER = np.uint8(255)  # than any: at most 4 * 7**2 for four weights of eight levels


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Lists of points, for every combination of levels: levels[0] + n_levels * levels[1] + ...

    lists: for each combination where its list begins, whether it is on the grid itself (and then its own list), and
    which place of the list is the last one. points: of the grid, as in there, list after list; each is filled up with
    its first point, see Machine.least. places: for each combination that is on the grid its index there.
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
    distances = _distances(combinations, levels)
    on_grid = distances.min(axis=1) == 0
    farthest = distances.min(axis=1, keepdims=True)
    for _ in range(n_distances - 1):
        following = np.where(distances > farthest, distances, _FARTHER).min(axis=1, keepdims=True)
        farthest = np.where(on_grid[:, None], farthest, following)
    near = np.flatnonzero(distances <= farthest)
    combination, index = np.divmod(near, len(points))
    order = np.argsort(combination << 8 | distances.reshape(-1)[near], kind="stable")
    in_order, n_in_list = points[index[order]], np.bincount(combination, minlength=n_points)
    first = np.cumsum(n_in_list) - n_in_list
    room = -(-n_in_list // LIST_STEP) * LIST_STEP
    start = np.cumsum(room) - room
    filled = np.repeat(in_order[first], room)
    filled[np.arange(len(in_order)) + np.repeat(start - first, n_in_list)] = in_order
    lists = start << _LIST_BITS | on_grid * ON_GRID | n_in_list - 1
    places = np.zeros(n_points, np.int32)
    places[on_grid] = distances[on_grid].argmin(axis=1)
    return Neighbours(grid, n_levels, lists.astype(np.int32), filled, places)


def _distances(a: npt.NDArray[np.int64], b: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Squared, of all rows of a to all of b: a product of matrices in float32, exact for small whole numbers."""
    ones = np.ones((len(b), 1))
    left = np.concatenate((-2.0 * a, (a**2).sum(axis=1)[:, None], np.ones((len(a), 1))), axis=1).astype(np.float32)
    right = np.concatenate((b, ones, (b**2).sum(axis=1)[:, None]), axis=1).astype(np.float32)
    return (left @ right.T).astype(np.uint8)
