"""Blocks that ggml has given up, which we read and do not write: those of files from March to May 2023.

    Q4_0_V1   0  d float32    4  qs 16 bytes    w = d * (q - 8), nibbles in order
    Q4_1_V1   0  d float32    4  m  float32     8  qs 16 bytes    w = d * q + m, nibbles in order
    Q4_2      0  d float16    2  qs  8 bytes    as Q4_0_V1, for 16 weights
    Q4_3      0  d float16    2  m  float16     4  qs  8 bytes    as Q4_1_V1, for 16 weights
    Q4_0_V2   as Q4_0_V1, and
    Q4_1_V2   as Q4_1_V1, with the nibbles as today: see nibbles
    Q8_0_V2   0  d float32    4  qs 32 int8     w = d * q

In order: quant 2i in the low half of byte i, quant 2i + 1 in its high half. llama.cpp pull request 1405 put the nibbles
into today's order (GGJT v2), 1508 made the scales float16 (GGJT v3). The formulas are those of `dequantize_row_*` in
ggml.c of those days; koboldcpp keeps them (otherarch/ggml_v1.c, ggml_v2.c).
"""

from __future__ import annotations

from dataclasses import dataclass

from converters import dtypes
from converters.dtypes import DType
from converters.quants.importance import Importance
from converters.quants.kernel_types import Dequantize
from converters.quants.nibbles import unpack_nibbles
from converters.quants.vector import Block, Machine, Real, Reals, Wholes


@dataclass(frozen=True)
class Withdrawn:
    """A type of which one direction is left."""

    DTYPE: DType
    dequantize: Dequantize

    def quantize(self, v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
        raise KeyError(self.DTYPE)


def _dequantize_q4_0_v1(v: Machine, block: Block, x: Reals) -> None:
    _scale(v, x, _float(block, 0), _in_order(v, block.load(4, 4), 32), 32)


def _dequantize_q4_1_v1(v: Machine, block: Block, x: Reals) -> None:
    _scale_and_shift(v, x, _float(block, 0), _float(block, 4), _in_order(v, block.load(8, 4), 32), 32)


def _dequantize_q4_2(v: Machine, block: Block, x: Reals) -> None:
    _scale(v, x, block.load_short(0).half(), _in_order(v, block.load(2, 2), 16), 16)


def _dequantize_q4_3(v: Machine, block: Block, x: Reals) -> None:
    d, m = block.load_short(0).half(), block.load_short(2).half()
    _scale_and_shift(v, x, d, m, _in_order(v, block.load(4, 2), 16), 16)


def _dequantize_q4_0_v2(v: Machine, block: Block, x: Reals) -> None:
    _scale(v, x, _float(block, 0), unpack_nibbles(v, block.load(4, 4)), 32)


def _dequantize_q4_1_v2(v: Machine, block: Block, x: Reals) -> None:
    _scale_and_shift(v, x, _float(block, 0), _float(block, 4), unpack_nibbles(v, block.load(8, 4)), 32)


def _dequantize_q8_0_v2(v: Machine, block: Block, x: Reals) -> None:
    d, words = _float(block, 0), block.load(4, 8)
    for k in range(8):
        for b in range(4):
            x[4 * k + b] = d * (words[k] >> (8 * b)).signed_byte().real()


def _float(block: Block, at: int) -> Real:
    return block.load(at, 1)[0].as_bits()


def _in_order(v: Machine, words: Wholes, n: int) -> Wholes:
    """In a little-endian word, nibbles in order are its bits from the low end up, four by four."""
    quants = v.wholes(n)
    for i in range(n):
        quants[i] = (words[i // 8] >> 4 * (i % 8)) & 15
    return quants


def _scale(v: Machine, x: Reals, d: Real, quants: Wholes, n: int) -> None:
    for i in v.loop(0, n, unroll=n):
        x[i] = d * (quants[i] - 8).real()


def _scale_and_shift(v: Machine, x: Reals, d: Real, m: Real, quants: Wholes, n: int) -> None:
    for i in v.loop(0, n, unroll=n):
        x[i] = d * quants[i].real() + m


TYPES: tuple[Withdrawn, ...] = (
    Withdrawn(dtypes.Q4_0_V1, _dequantize_q4_0_v1),
    Withdrawn(dtypes.Q4_1_V1, _dequantize_q4_1_v1),
    Withdrawn(dtypes.Q4_2, _dequantize_q4_2),
    Withdrawn(dtypes.Q4_3, _dequantize_q4_3),
    Withdrawn(dtypes.Q4_0_V2, _dequantize_q4_0_v2),
    Withdrawn(dtypes.Q4_1_V2, _dequantize_q4_1_v2),
    Withdrawn(dtypes.Q8_0_V2, _dequantize_q8_0_v2),
)
