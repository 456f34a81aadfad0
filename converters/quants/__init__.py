"""Types of weights, both ways: the table of all that we can read and write, and rows through it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
from converters.quants.base import ImportanceMatrix, KernelModule, Quant
from converters.quants.kernel import KernelQuant

_PLAIN: tuple[Quant, ...] = (f32, f16, bf16)
KERNELS: tuple[KernelModule, ...] = (
    q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs,
    tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0,
)  # fmt: skip
GRID_KERNELS: tuple[KernelModule, ...] = (iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s)
CODECS: Mapping[DType, Quant] = MappingProxyType(
    {
        quant.DTYPE: quant
        for quant in (*_PLAIN, *(KernelQuant(module) for module in (*KERNELS, *GRID_KERNELS, *withdrawn.TYPES)))
    }
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


def decode(data: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float32]:
    """Stored rows as numbers.

    data: uint8, shape (n_rows, row_bytes). Returns float32, shape (n_rows, n_columns). Raises KeyError for a type
    that `can_decode` denies.
    """
    quant = CODECS[dtype]
    n_rows = data.shape[0]
    blocks = np.ascontiguousarray(data).reshape(-1, dtype.block_bytes)
    n_columns = data.shape[1] // dtype.block_bytes * dtype.block_size
    with np.errstate(all="ignore"):  # a scale may be infinite; so ggml has it too
        return quant.dequantize_blocks(blocks).reshape(n_rows, n_columns)


def encode(
    weights: npt.NDArray[np.float32],
    dtype: DType,
    *,
    tensor: str,
    first_index: int,
    importance: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.uint8]:
    """Numbers as stored rows.

    weights: float32, shape (n_rows, n_columns), n_columns a whole number of blocks. Returns uint8, shape (n_rows,
    row_bytes). tensor and first_index (the place of weights[0, 0] in it) are for the error: UnrepresentableError names
    the first weight that is NaN, infinite or too large for the type. F32 keeps every bit. importance: float32, shape
    (n_columns,), finite and not negative, what the search of a quantized type weighs the errors of each column by;
    types that have no search take no notice. Raises KeyError for a type that `can_encode` denies, ValueError for rows
    that are not whole blocks, and for a type that `needs_importance` and gets none.
    """
    quant = CODECS[dtype]
    n_rows, n_columns = weights.shape
    row_bytes = dtype.row_bytes(n_columns)
    _refuse_unrepresentable(weights, quant, tensor, first_index)
    rows = np.ascontiguousarray(weights)
    blocks = rows.reshape(-1, dtype.block_size)
    with np.errstate(all="ignore"):  # overflow, 1/0 and inf * 0 have one outcome each, and it is ggml's
        matrix = None if importance is None else ImportanceMatrix.for_rows(importance, rows, dtype)
        return quant.quantize_blocks(blocks, matrix).reshape(n_rows, row_bytes)


def _refuse_unrepresentable(weights: npt.NDArray[np.float32], quant: Quant, tensor: str, first_index: int) -> None:
    limit = quant.LIMIT
    if limit is None or weights.size == 0 or (weights.max() < limit and weights.min() > -limit):  # false for NaN
        return
    index = int(np.argmin(np.abs(weights) < limit))
    raise UnrepresentableError(tensor, first_index + index, float(weights.flat[index]), quant.DTYPE.name)
