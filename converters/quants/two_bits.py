"""Quants of two bits, four to a byte, as Q2_K and Q3_K hold them."""

from __future__ import annotations

from converters.quants.vector import Machine, Wholes


def pack_two_bits(v: Machine, quants: Wholes) -> Wholes:
    """256 quants as 16 words: of 128, the low two bits of quants i, i + 32, i + 64 and i + 96 make byte i."""
    words = v.wholes(16)
    for n in v.loop(0, 2, unroll=1):
        for k in v.loop(0, 8):
            q = quants.part(128 * n + 4 * k)
            both = [[q[b + 32 * c] & 3 for c in range(4)] for b in range(4)]
            words[8 * n + k] = v.pack(*(c0 | c1 << 2 | (c2 << 4 | c3 << 6) for c0, c1, c2, c3 in both))
    return words
