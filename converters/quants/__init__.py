"""Types of weights, both ways: the table of all that we can read and write, and rows through it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType
from converters.errors import UnrepresentableError
from converters.quants import (
    bf16,
    f16,
    f32,
    iq1_m,
    iq1_s,
    iq2_s,
    iq2_xs,
    iq2_xxs,
    iq3_s,
    iq3_xxs,
    iq4_nl,
    iq4_xs,
    mxfp4,
    nvfp4,
    q1_0,
    q2_0,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
    tq1_0,
    tq2_0,
    withdrawn,
)
from converters.quants.base import KernelModule, Quant
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.kernel import KernelQuant

T = TypeVar("T", np.float32, np.uint8)

KERNELS: tuple[KernelModule, ...] = (
    q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs,
    tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0,
)  # fmt: skip
GRID_KERNELS: tuple[KernelModule, ...] = (iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s)
CODECS: Mapping[DType, Quant] = MappingProxyType(
    {f32.DTYPE: f32}
    | {half.DTYPE: KernelQuant(half, limit=half.LIMIT) for half in (f16, bf16)}
    | {module.DTYPE: KernelQuant(module) for module in (*KERNELS, *GRID_KERNELS, *withdrawn.TYPES)}
)

# Each weight has its own place, or all of a block have one scale that follows from the largest: nothing is searched.
_WITHOUT_SEARCH = frozenset(module.DTYPE for module in (q8_0, tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0))
_WITHDRAWN = frozenset(each.DTYPE for each in withdrawn.TYPES)
_BY_IMPORTANCE_ALONE = frozenset((iq1_s.DTYPE, iq2_xxs.DTYPE, iq2_xs.DTYPE))


def can_decode(dtype: DType) -> bool:
    return dtype in CODECS


def can_encode(dtype: DType) -> bool:
    return dtype in CODECS and dtype not in _WITHDRAWN


def needs_importance(dtype: DType) -> bool:
    """Whether it is so coarse that ggml, and so we, do not search without (ggml_quantize_requires_imatrix)."""
    return dtype in _BY_IMPORTANCE_ALONE


def uses_importance(dtype: DType) -> bool:
    """Whether an importance matrix changes the bytes."""
    return not dtype.is_plain and dtype not in _WITHOUT_SEARCH


def decode(
    data: npt.NDArray[np.uint8], dtype: DType, *, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Stored rows as numbers.

    data: uint8, shape (n_rows, row_bytes). Returns float32, shape (n_rows, n_columns), in out if it is given:
    contiguous, with room for as many numbers or more. Of F32 it gives the data itself. Raises KeyError for a type that
    `can_decode` denies.
    """
    quant = CODECS[dtype]
    n_rows, n_columns = data.shape[0], data.shape[1] // dtype.block_bytes * dtype.block_size
    rows = np.ascontiguousarray(data)
    if dtype == f32.DTYPE:
        return rows.view("<f4").astype(np.float32, copy=False)
    weights = np.empty((n_rows, n_columns), np.float32) if out is None else _part(out, n_rows, n_columns)
    with np.errstate(all="ignore"):  # a scale may be infinite; so ggml has it too
        quant.dequantize_into(weights.reshape(-1, dtype.block_size), rows.reshape(-1, dtype.block_bytes))
    return weights


def encode(
    weights: npt.NDArray[np.float32],
    dtype: DType,
    *,
    tensor: str,
    first_index: int,
    importance: npt.NDArray[np.float32] | None = None,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Numbers as stored rows.

    weights: float32, shape (n_rows, n_columns), n_columns a whole number of blocks. Returns uint8, shape (n_rows,
    row_bytes), in out if it is given: contiguous, with room for as many bytes or more. tensor and first_index (the
    place of weights[0, 0] in it) are for the error: UnrepresentableError names the first weight that is NaN, infinite
    or too large for the type. F32 keeps every bit. importance: float32, shape (n_columns,), finite and not negative,
    what the search of a quantized type weighs the errors of each column by; types that have no search take no notice.
    Raises KeyError for a type that `can_encode` denies, ValueError for rows that are not whole blocks, and for a type
    that `needs_importance` and gets none.
    """
    quant = CODECS[dtype]
    n_rows, n_columns = weights.shape
    row_bytes = dtype.row_bytes(n_columns)
    rows = np.ascontiguousarray(weights)
    _refuse_unrepresentable(rows, quant, tensor, first_index)
    data = np.empty((n_rows, row_bytes), np.uint8) if out is None else _part(out, n_rows, row_bytes)
    with np.errstate(all="ignore"):  # overflow, 1/0 and inf * 0 have one outcome each, and it is ggml's
        weighed = importance if uses_importance(dtype) else None
        matrix = None if weighed is None else ImportanceMatrix.for_rows(weighed, rows, dtype)
        blocks = data.reshape(-1, dtype.block_bytes)
        quant.quantize_into(blocks, rows.reshape(-1, dtype.block_size), matrix)
    return data


def _part(out: npt.NDArray[T], n_rows: int, n: int) -> npt.NDArray[T]:
    """Of a buffer, the first n_rows rows of n elements. Raises ValueError where it is too small or not contiguous."""
    if not out.flags.c_contiguous or out.size < n_rows * n:
        raise ValueError(f"a buffer of {out.size} elements for {n_rows} rows of {n}")
    return out.reshape(-1)[: n_rows * n].reshape(n_rows, n)


def _refuse_unrepresentable(weights: npt.NDArray[np.float32], quant: Quant, tensor: str, first_index: int) -> None:
    limit = quant.LIMIT
    if limit is None or weights.size == 0 or (weights.max() < limit and weights.min() > -limit):  # false for NaN
        return
    index = int(np.argmin(np.abs(weights) < limit))
    raise UnrepresentableError(tensor, first_index + index, float(weights.flat[index]), quant.DTYPE.name)
