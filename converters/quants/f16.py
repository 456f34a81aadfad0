"""F16: IEEE 754 binary16, little-endian, rounded to nearest even."""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.F16
LIMIT = 65520.0  # halfway from the largest, 65504, to the first that is not there; it would round to infinity


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    block.store_short(0, v.half(x[0]))


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    x[0] = block.load_short(0).half()
