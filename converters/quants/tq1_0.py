"""TQ1_0: 256 weights in 54 bytes, 1.6875 bits per weight: each is -d, 0 or d.

     0  qs  32 bytes: five quants each; byte i holds quants i, i + 32, ..., i + 128
    32      16 bytes: likewise quants i, i + 16, ..., i + 64 of those from 160 on
    48  qh  4 bytes: four each, quants i, i + 4, i + 8, i + 12 of those from 240 on
    52  d   float16: scale; w = d * (q - 1)

A byte is a fraction of 256: its quants are the digits after the point in base 3, so that each multiplication by 3
brings the next one in front of the point.

Layout and rounding: block_tq1_0 and quantize_row_tq1_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.ternary import ternary_scale
from converters.quants.vector import Block, Machine, Reals, Whole

DTYPE = dtypes.TQ1_0

# Bytes that are alike: the first of them, how many, the first weight they hold, quants in each.
_PARTS = ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4))


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scale = ternary_scale(v, x)
    words = v.wholes(13)
    for first_byte, n_bytes, first_weight, n_quants in _PARTS:
        for k in v.loop(0, n_bytes // 4, unroll=1):
            part = x.part(4 * k + first_weight)
            digits = [[scale.quant(v, part[n * n_bytes + b]) for n in range(n_quants)] for b in range(4)]
            words[k + first_byte // 4] = v.pack(*(_fraction(v, five) for five in digits))
    block.store(0, words, 13)
    block.store_short(52, scale.d)


def _fraction(v: Machine, digits: list[Whole]) -> Whole:
    """The smallest byte whose first digits in base 3 are these."""
    number = v.fold(lambda number, digit: number * 3 + digit, v.as_whole(0), digits) * 3 ** (5 - len(digits))
    return v.truncate((number * 256 + 242).real() / 243.0)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    words, d = block.load(0, 13), block.load_short(52).half()
    for first_byte, n_bytes, first_weight, n_quants in _PARTS:
        for k in v.loop(0, n_bytes // 4, unroll=1):
            part = x.part(4 * k + first_weight)
            for b in range(4):
                fraction = words[k + first_byte // 4] >> (8 * b) & 255
                for n in range(n_quants):
                    part[n * n_bytes + b] = d * ((fraction * 3 >> 8) - 1).real()
                    fraction = fraction * 3 & 255
