"""What IQ1_S and IQ1_M have in common: the levels -1, 0 and 1 of a point's weights, all shifted a little up or down."""

from __future__ import annotations

from collections.abc import Iterable

from converters.quants.vector import Machine, Real, Whole

SHIFT = 0.125  # IQ1S_DELTA and IQ1M_DELTA


def three_level_values(v: Machine, point: Whole, scale: Real, down: Whole) -> Iterable[Real]:
    """Eight weights; down is 1 where the shift is downwards, otherwise 0."""
    shift = v.select(down.equals(0), SHIFT, v.real(-SHIFT))
    for i in range(8):
        yield scale * (((point >> 2 * i & 3) - 1).real() + shift)
