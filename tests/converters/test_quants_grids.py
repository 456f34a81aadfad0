"""The types whose quants are points of a grid, IQ1 to IQ3: literal blocks, and ggml and gguf-py as judges."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from converters import dtypes, quants
from converters.quants import GRID_KERNELS, grids, iq1_m, iq2_xxs, iq3_s
from converters.quants.base import KernelModule
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.kernel import KernelQuant
from converters.quants.llvm import Width
from converters.quants.neighbours import ON_GRID, neighbours
from tests.converters.test_quants import HARD, IMPORTANCE
from tests.fakes import ggml

Floats = npt.NDArray[np.float32]

# ggml ends the process where the square of a weight is infinite.
ENDURED = {case: weights for case, weights in HARD.items() if np.abs(weights).max() < 1e19}
FEW = np.concatenate([weights[::6] for weights in ENDURED.values()])
IMPORTANCES: dict[str, Floats | None] = {"none": None, **IMPORTANCE}
MACHINES = pytest.mark.parametrize("with_llvm", [True, False], ids=["llvm", "numpy"])


def name(module: KernelModule) -> str:
    return str(module.DTYPE)


def decode(module: KernelModule, block: list[int]) -> list[float]:
    return [float(weight) for weight in KernelQuant(module).dequantize_blocks(np.array([block], np.uint8))[0]]


@MACHINES
@pytest.mark.parametrize("module", GRID_KERNELS, ids=name)
def test_any_block_decodes_as_in_ggml_and_gguf(module: KernelModule, with_llvm: bool) -> None:
    dtype = module.DTYPE
    blocks = np.random.default_rng(6).integers(0, 256, (1003, dtype.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        ours = KernelQuant(module, with_llvm=with_llvm).dequantize_blocks(blocks)
        judges = [ggml.dequantize(blocks, dtype), gguf.dequantize(blocks, gguf.GGMLQuantizationType[dtype.name])]
    numbers = ~np.isnan(ours)  # of a NaN only that it is one
    for theirs in judges:
        np.testing.assert_array_equal(np.isnan(theirs), ~numbers)
        np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


def test_iq2_xxs_block_byte_by_byte() -> None:
    d = [0x00, 0x44]  # 4.0
    points = [0, 1, 0, 0]  # point 1 is 0x0002: the first level is 2
    signs = 0b0000011 | 0b0000001 << 7 | 1 << 28  # two of the first point; one of the second and so its eighth; scale 1
    block = d + points + list(signs.to_bytes(4, "little")) + [0] * 56
    first = [-12.0, -12.0] + [12.0] * 6  # 4 * 1.5 / 4 * 8
    second = [-64.5] + [12.0] * 6 + [-12.0]  # 43 * 1.5
    assert decode(iq2_xxs, block) == first + second + [12.0] * 16 + [4.0] * 224


def test_iq3_s_block_byte_by_byte() -> None:
    d = [0x00, 0x3C]  # 1.0
    qs, qh = [1] + [0] * 63, [2] + [0] * 7  # the second point is the 256th
    signs = [0b10000001] + [0] * 31
    scales = [1] + [0] * 3  # 2 * 1 + 1 for the first 32 weights
    assert grids.IQ3_S.points[1] == 0o0001 and grids.IQ3_S.points[256] == 0o2423
    expected = [-9.0, 3.0, 3.0, 3.0, 21.0, 15.0, 27.0, -15.0] + [3.0] * 24 + [1.0] * 224
    assert decode(iq3_s, d + qs + qh + signs + scales) == expected


def test_iq1_m_block_byte_by_byte() -> None:
    qs, qh = [0xFF] + [0] * 31, [0x07 | 0x8 << 4] + [0] * 15  # point 2047, all ones; the second shifted down
    scales = [1, 0x00, 0, 0x00, 0, 0xC0, 0, 0x30]  # of the first sub-block 2 * 1 + 1; d is 0x3C00, 1.0
    assert (grids.IQ1.points[0], grids.IQ1.points[2047]) == (0x0000, 0xAAAA)
    expected = [3 * 1.125] * 8 + [3 * -1.125] * 8 + [-0.875] * 240
    assert decode(iq1_m, qs + qh + scales) == expected


@pytest.mark.parametrize(
    ("grid", "n_points", "top"),
    [
        (grids.IQ2_XXS, 256, 2), (grids.IQ2_XS, 512, 2), (grids.IQ2_S, 1024, 2), (grids.IQ1, 2048, 2),
        (grids.IQ3_XXS, 256, 7), (grids.IQ3_S, 512, 7),
    ],
)  # fmt: skip
def test_grids_rise_and_hold_no_level_that_is_none(grid: grids.Grid, n_points: int, top: int) -> None:
    points = np.array(grid.points)
    levels: npt.NDArray[Any] = points[:, None] >> grid.bits * np.arange(grid.n_weights) & (1 << grid.bits) - 1
    assert len(points) == n_points and (np.diff(points) > 0).all() and levels.max() == top


def test_neighbours_are_by_distance_then_index() -> None:
    near = neighbours(grids.IQ3_XXS, n_levels=8, n_distances=2)
    entry = int(near.lists[0o0001])  # levels 1, 0, 0, 0: one step from 0000 and from 0002, which both are on the grid
    first, n = entry >> 10, (entry & (ON_GRID - 1)) + 1
    levels = near.points[first : first + n, None] >> 3 * np.arange(4) & 7
    distances = ((levels - [1, 0, 0, 0]) ** 2).sum(axis=1).tolist()
    assert not entry & ON_GRID
    assert near.points[first : first + 2].tolist() == [0o0000, 0o0002]
    assert distances == sorted(distances) and len(set(distances)) == 2
    assert near.lists[0o0002] & ON_GRID and near.places[0o0002] == 1


def assert_ggmls_bytes(module: KernelModule, importance: str, weights: Floats, *, with_llvm: bool) -> None:
    columns = IMPORTANCES[importance]
    blocks = weights.reshape(-1, 256)
    with np.errstate(all="ignore"):
        matrix = None if columns is None else ImportanceMatrix.for_rows(columns, weights, module.DTYPE)
        ours = KernelQuant(module, with_llvm=with_llvm).quantize_blocks(blocks, matrix)
    theirs = ggml.quantize(weights, module.DTYPE, columns).reshape(ours.shape)
    different = np.nonzero((ours != theirs).any(axis=1))[0]
    assert not different.size, different.tolist()


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("module", GRID_KERNELS, ids=name)
def test_hard_weights_become_ggmls_bytes(module: KernelModule, importance: str) -> None:
    if importance == "none" and quants.needs_importance(module.DTYPE):
        with pytest.raises(ValueError, match="without importance"):
            quants.encode(FEW, module.DTYPE, tensor="w", first_index=0)
    else:
        assert_ggmls_bytes(module, importance, FEW, with_llvm=True)


@pytest.mark.parametrize("module", GRID_KERNELS, ids=name)
def test_numpy_carries_kernels_out_with_the_same_bytes(module: KernelModule) -> None:
    assert_ggmls_bytes(module, "half zeros", FEW[::9], with_llvm=False)


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9])
@pytest.mark.parametrize("module", GRID_KERNELS, ids=name)
def test_a_tile_that_is_not_full_changes_nothing(module: KernelModule, n_rows: int) -> None:
    assert_ggmls_bytes(module, "plain", HARD["normal"][:n_rows], with_llvm=True)


@pytest.mark.parametrize("module", GRID_KERNELS, ids=name)
def test_code_is_the_same_each_time_and_has_no_fast_math(module: KernelModule) -> None:
    quant, width = KernelQuant(module), Width(8, 8)
    code = quant.code("quantize with importance", width)
    assert code == quant.code("quantize with importance", width)
    assert not any(
        f" {flag} " in code for flag in ("fast", "contract", "reassoc", "nnan", "ninf", "nsz", "arcp", "afn")
    )


def test_weights_whose_squares_are_infinite_end_no_process() -> None:
    for dtype in (dtypes.IQ3_S, dtypes.IQ2_S, dtypes.IQ1_M):
        assert quants.encode(HARD["1e37"], dtype, tensor="w", first_index=0).shape == (24, dtype.row_bytes(512))
