"""The fifth bits of 32 quants in one word, bit i for quant i, as Q5_0 and Q5_1 hold them beside their nibbles."""

from __future__ import annotations

from converters.quants.nibbles import unpack_nibbles
from converters.quants.vector import Machine, Wholes


def pack_fifth_bits(v: Machine, quants: Wholes) -> Wholes:
    words = v.wholes(1)
    words[0] = v.bits(*((quants[i] >> 4) & 1 for i in range(32)))
    return words


def unpack_five_bits(v: Machine, high: Wholes, low: Wholes) -> Wholes:
    """32 quants, 0 to 31."""
    quants, fifth = unpack_nibbles(v, low), high[0]
    for i in range(32):
        quants[i] = quants[i] | ((fifth >> i) & 1) << 4
    return quants
