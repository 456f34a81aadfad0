"""Rows of weights with the bytes of every number swapped, as machines with the other byte order have them.

A row of plain numbers is swapped number by number, a quantized block field by field, and a field is as wide as ggml's
`dequantize_row_*` (ggml-quants.c) reads it: on such a machine the block then gives the same weights. That is the C
struct's own type in most cases (scales are halves, IQ4_XS has a u16 of high bits), but Q5_0's `qh` is taken out of four
bytes as one u32, and so is every other group of four bytes of IQ2_XXS's `qs`. Bytes that are read one at a time stay.
For Q4_0, Q8_0, Q4_K, Q6_K, MXFP4 and NVFP4 gguf-py's gguf_convert_endian.py does the same; it refuses the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converters import dtypes
from converters.dtypes import DType
from converters.tensors import Bytes, TensorView

# (bytes in a field, fields) from the start of a block on; what is not listed is single bytes to the block's end.
_FIELDS: dict[DType, tuple[tuple[int, int], ...]] = {
    dtypes.Q4_0: ((2, 1),),
    dtypes.Q4_1: ((2, 2),),
    dtypes.Q5_0: ((2, 1), (4, 1)),
    dtypes.Q5_1: ((2, 2), (4, 1)),
    dtypes.Q8_0: ((2, 1),),
    dtypes.Q2_K: ((1, 16 + 64), (2, 2)),
    dtypes.Q3_K: ((1, 32 + 64 + 12), (2, 1)),
    dtypes.Q4_K: ((2, 2),),
    dtypes.Q5_K: ((2, 2),),
    dtypes.Q6_K: ((1, 128 + 64 + 16), (2, 1)),
    dtypes.IQ1_S: ((2, 1), (1, 32), (2, 8)),
    dtypes.IQ1_M: ((1, 32 + 16), (2, 4)),
    dtypes.IQ2_XXS: ((2, 1), *((1, 4), (4, 1)) * 8),
    dtypes.IQ2_XS: ((2, 1), (2, 32)),
    dtypes.IQ2_S: ((2, 1),),
    dtypes.IQ3_XXS: ((2, 1), (1, 64), (4, 8)),
    dtypes.IQ3_S: ((2, 1),),
    dtypes.IQ4_NL: ((2, 1),),
    dtypes.IQ4_XS: ((2, 1), (2, 1)),
    dtypes.TQ1_0: ((1, 48 + 4), (2, 1)),
    dtypes.TQ2_0: ((1, 64), (2, 1)),
    dtypes.MXFP4: (),
    dtypes.NVFP4: (),
    dtypes.Q1_0: ((2, 1),),
    dtypes.Q2_0: ((2, 1),),
}


def swapped(rows: Bytes, dtype: DType) -> Bytes:
    """The same rows in the other byte order: uint8 of the same shape, a copy. Swapped twice they are what they were."""
    if dtype.is_plain:
        return rows.view(f"u{dtype.block_bytes}").byteswap().view(np.uint8)
    blocks = np.array(rows).reshape(-1, dtype.block_bytes)
    start = 0
    for width, count in _FIELDS[dtype]:
        stop = start + width * count
        if width > 1:
            field = blocks[:, start:stop].reshape(-1, count, width)
            blocks[:, start:stop] = field[:, :, ::-1].reshape(-1, width * count)
        start = stop
    return blocks.reshape(rows.shape)


@dataclass(frozen=True)
class SwappedTensor(TensorView):
    """A tensor of a file of the other byte order, as this program reads weights: little-endian."""

    def read_rows(self, start: int, stop: int) -> Bytes:
        return swapped(self.tensor.read_rows(start, stop), self.info.dtype)
