"""The types whose quants are points of a grid, IQ1 to IQ3: literal blocks, and ggml and gguf-py as judges."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from converters.quants import grids, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs
from converters.quants.kernel import KernelQuant
from tests.fakes import ggml

MODULES: list[Any] = [iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs]
MACHINES = pytest.mark.parametrize("with_llvm", [True, False], ids=["llvm", "numpy"])


def name(module: Any) -> str:
    return str(module.DTYPE)


def decode(module: Any, block: list[int]) -> list[float]:
    return [float(weight) for weight in KernelQuant(module).dequantize_blocks(np.array([block], np.uint8))[0]]


@MACHINES
@pytest.mark.parametrize("module", MODULES, ids=name)
def test_any_block_decodes_as_in_ggml_and_gguf(module: Any, with_llvm: bool) -> None:
    dtype = module.DTYPE
    blocks = np.random.default_rng(6).integers(0, 256, (1003, dtype.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        ours = KernelQuant(module, with_llvm=with_llvm).dequantize_blocks(blocks)
        judges = [ggml.dequantize(blocks, dtype), gguf.dequantize(blocks, gguf.GGMLQuantizationType(dtype.ggml_id))]
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
