"""ggml itself as a judge: its own quantizers and dequantizers, by ctypes out of the xllamacpp wheel."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType


@functools.cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def quantize(
    weights: npt.NDArray[np.float32], dtype: DType, imatrix: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """`ggml_quantize_chunk` of rows, shape (n_rows, n_columns); imatrix has shape (n_columns,)."""
    weights = np.ascontiguousarray(weights, np.float32)
    n_rows, n_columns = weights.shape
    out = np.empty((n_rows, dtype.row_bytes(n_columns)), np.uint8)
    written = quantize_into(out, weights, dtype, imatrix)
    assert written == out.nbytes
    return out


def quantize_into(
    out: npt.NDArray[np.uint8],
    weights: npt.NDArray[np.float32],
    dtype: DType,
    imatrix: npt.NDArray[np.float32] | None = None,
) -> int:
    """The bare call, for benchmarks: no allocation, no check; the GIL is free while it runs."""
    n_rows, n_columns = weights.shape
    importance = None if imatrix is None else imatrix.ctypes.data
    call = _library().ggml_quantize_chunk
    return int(call(dtype.ggml_id, weights.ctypes.data, out.ctypes.data, 0, n_rows, n_columns, importance))


def dequantize(data: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float32]:
    """`dequantize_row_<type>` of rows, shape (n_rows, row_bytes), for the block types."""
    data = np.ascontiguousarray(data)
    n_rows, row_bytes = data.shape
    out = np.empty((n_rows, row_bytes // dtype.block_bytes * dtype.block_size), np.float32)
    base, _, suffix = dtype.name.rpartition("_")
    name = f"{base.lower()}_{suffix}" if suffix == "K" else dtype.name.lower()
    call = _library()[f"dequantize_row_{name}"]
    call.restype = None
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    call(data.ctypes.data, out.ctypes.data, out.size)
    return out
