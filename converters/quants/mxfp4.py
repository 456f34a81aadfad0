"""MXFP4: 32 weights in 17 bytes, 4.25 bits per weight, four-bit floats under a power of two.

    0  e   the power: scale = 2 ** (e - 127)
    1  qs  16 bytes: see nibbles; w = scale * q, see float4

Layout and rounding: block_mxfp4, quantize_row_mxfp4_ref and ggml_e8m0_to_fp32_half (ggml-common.h, ggml-quants.c,
ggml-impl.h); the format is the OCP Microscaling one.
"""

from __future__ import annotations

import math

from converters import dtypes
from converters.quants.float4 import nearest_quant, twice, worths
from converters.quants.importance import Importance
from converters.quants.nibbles import pack_nibbles, unpack_nibbles
from converters.quants.vector import Block, Machine, Real, Reals, Whole

DTYPE = dtypes.MXFP4

_LARGEST_POWER = 2  # of a four-bit float: 6 = 1.5 * 2 ** 2


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    largest = v.fold(v.larger, v.real(0.0), (abs(x[i]) for i in v.loop(0, 32, unroll=32)))
    e = v.select(largest > 0.0, _power_of_two(v, largest) + (127 - _LARGEST_POWER) & 255, 0)
    worth = worths(v, _half_scale(v, e))
    quants = v.wholes(32)
    for i in v.loop(0, 32, unroll=2):
        quants[i] = nearest_quant(v, x[i], worth)
    block.store_short(0, e)  # its second byte is written over
    block.store(1, pack_nibbles(v, quants), 4)


def _power_of_two(v: Machine, value: Real) -> Whole:
    """floorf(log2f(value)) of a positive number.

    log2f rounds: just below a power of two it gives that power, and floorf leaves it there.
    """
    denormal = value < 2.0**-126
    bits = v.select(denormal, value * 2.0**24, value).bits()
    power = (bits >> 23) - v.select(denormal, v.as_whole(127 + 24), 127)
    following = (power + 1).real()
    from_following = ((bits & 0x7FFFFF) - 0x800000).real() * (2.0**-24 / math.log(2.0))
    return v.select((following + from_following).equals(following), power + 1, power)


def _half_scale(v: Machine, e: Whole) -> Real:
    """2 ** (e - 128), which for 0 and 1 is a denormal."""
    denormal = v.select(e.equals(0), v.as_whole(0x00200000), 0x00400000)
    return v.select((e >> 1).equals(0), denormal, (e - 1) << 23).as_bits()


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    half_scale = _half_scale(v, block.load_short(0) & 255)
    quants = unpack_nibbles(v, block.load(1, 4))
    for i in v.loop(0, 32):
        x[i] = twice(v, quants[i]) * half_scale
