"""Numbers of four bits, E2M1: a sign, two bits of exponent, one of mantissa. Twice their worth is a whole number.

The scale beside them is halved instead. kvalues_mxfp4 in ggml-common.h, best_index_mxfp4 in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.quants.vector import Machine, Real, Whole

_TWICE = (0, 1, 2, 3, 4, 6, 8, 12)
_TWICE_WITH_SIGN = (*_TWICE, *(-twice for twice in _TWICE))


def twice(v: Machine, quant: Whole) -> Real:
    """What a quant, 0 to 15, is worth, doubled. There is no negative zero."""
    low = quant & 7
    magnitude = low + (low - 4).at_least(0) + ((low - 6).at_least(0) << 1)  # steps of 1, from 4 on 2, from 8 on 4
    return v.select((quant & 8).equals(0), magnitude.real(), (v.as_whole(0) - magnitude).real())


def worths(v: Machine, half_scale: Real) -> list[Real]:
    """Of each quant with this scale."""
    return [half_scale * float(twice) for twice in _TWICE_WITH_SIGN]


def nearest_quant(v: Machine, weight: Real, worths: Sequence[Real]) -> Whole:
    """The first quant of those that are nearest."""
    quant, least = v.as_whole(0), abs(worths[0] - weight)
    for i, worth in enumerate(worths[1:], start=1):
        error = abs(worth - weight)
        nearer = error < least
        quant, least = v.select(nearer, i, quant), v.select(nearer, error, least)
    return quant
