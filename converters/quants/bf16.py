"""BF16: the upper half of a float32 (1 sign, 8 exponent, 7 mantissa bits), little-endian, rounded to nearest even."""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.BF16
LIMIT = float.fromhex("0x1.ffp127")  # halfway from the largest, 0x1.fep127, to infinity


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    bits = x[0].bits()
    # Just under half of the part that goes, and one more if the part that stays is odd: a tie goes to the even one.
    block.store_short(0, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    x[0] = (block.load_short(0) << 16).as_bits()
