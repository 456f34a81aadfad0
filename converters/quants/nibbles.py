"""32 quants of four bits in 16 bytes: quant i in the low half of byte i, quant i + 16 in its high half."""

from __future__ import annotations

from converters.quants.vector import Machine, Wholes


def pack_nibbles(v: Machine, quants: Wholes) -> Wholes:
    """Four words; only the low four bits of each quant count."""
    words = v.wholes(4)
    for k in range(4):
        words[k] = v.pack(*((quants[4 * k + b] & 15) | (quants[4 * k + b + 16] & 15) << 4 for b in range(4)))
    return words


def unpack_nibbles(v: Machine, words: Wholes) -> Wholes:
    quants = v.wholes(32)
    for k in range(4):
        for b in range(4):
            both = words[k] >> (8 * b)
            quants[4 * k + b], quants[4 * k + b + 16] = both & 15, (both >> 4) & 15
    return quants
