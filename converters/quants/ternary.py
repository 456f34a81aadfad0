"""The rounding of TQ1_0 and TQ2_0: -d, 0 or d, where d is the magnitude of the weight farthest from zero."""

from __future__ import annotations

from dataclasses import dataclass

from converters.quants.vector import Machine, Real, Reals, Whole


@dataclass(frozen=True)
class TernaryScale:
    """d: float16 as bits. inverse: 1 / d before it was rounded, 0 for 0."""

    d: Whole
    inverse: Real

    def quant(self, v: Machine, weight: Real) -> Whole:
        """0, 1 or 2; 1 where d is so small that 1 / d is infinite."""
        value = weight * self.inverse
        return v.select(abs(value) < 2.0, v.round_half_away(value) + 1, 1)


def ternary_scale(v: Machine, x: Reals) -> TernaryScale:
    """Of 256 weights."""
    d = v.fold(v.larger, v.real(0.0), (abs(x[i]) for i in v.loop(0, 256, unroll=16)))
    return TernaryScale(v.half(d), v.reciprocal(d))
