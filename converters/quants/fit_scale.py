"""The search of the types that store a scale alone: weight = scale * quant, quants from -top to top - 1.

make_qx_quants in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from converters.quants.vector import Machine, Real, Reals, Whole

_AT_ONCE = 3  # trials whose sums are made side by side; they depend on each other only when compared
TINY = 1e-15  # GROUP_MAX_EPS: weights that are all smaller count as zero


@dataclass(frozen=True)
class ScaleFit:
    """weight ≈ scale * quant. inverse is 0 where all weights are tiny, and nowhere else."""

    scale: Real
    inverse: Real
    top: int

    def quant(self, v: Machine, weight: Real) -> Whole:
        """Of the search, plus top: 0 to 2 * top - 1; 0 where all weights are tiny."""
        found = quant(v, weight, self.inverse, self.top) + self.top
        return v.select(self.inverse.equals(0.0), 0, found)


def quant(v: Machine, weight: Real, inverse: Real, top: int) -> Whole:
    return v.nearest_whole(inverse * weight).clamp(-top, top - 1)


def fit_scale(v: Machine, x: Reals, importance: Reals, n: int, *, top: int) -> ScaleFit:
    """A scale for n weights.

    Puts the weight farthest from zero at -top, then tries to put it 0.1 to 0.9 steps nearer or farther. For the quants
    that each trial gives, the best scale is known in closed form; the least error of squares wins.
    """
    farthest = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, n)))
    tiny = abs(farthest) < TINY
    products = v.reals(n)
    for i in v.loop(0, n, unroll=16):
        products[i] = importance[i] * x[i]

    def sums_for(*inverses: Real) -> list[tuple[Real, Real]]:
        """Of products * quant and of importance * quant**2, for each inverse; all at once, so that none waits."""

        def terms(i: int) -> Iterator[Real]:
            for inverse in inverses:
                q = v.nearest_within(inverse * x[i], -top, top - 1)
                yield from (products[i] * q, importance[i] * q * q)

        sums = v.sums(2 * len(inverses), (tuple(terms(i)) for i in v.loop(0, n, unroll=16)))
        return list(zip(sums[::2], sums[1::2], strict=True))

    inverse = -float(top) / farthest
    ((sum_xq, sum_q2),) = sums_for(inverse)
    scale = v.select(sum_q2.equals(0.0), 0.0, sum_xq / sum_q2)
    best = v.kept(scale=scale, score=scale * sum_xq, inverse=inverse)
    for trial in v.loop(0, 18 // _AT_ONCE, unroll=1):
        tenths = [v.real(_AT_ONCE * trial + k) for k in range(_AT_ONCE)]
        tenths = [v.select(t < 9.0, t - 9.0, t - 8.0) for t in tenths]  # -9 to 9 without 0
        inverses = [-(float(top) + 0.1 * t) / farthest for t in tenths]
        for inverse, (sum_xq, sum_q2) in zip(inverses, sums_for(*inverses), strict=True):
            better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
            scale = sum_xq / sum_q2
            best.keep(better, scale=scale, score=scale * sum_xq, inverse=inverse)
    return ScaleFit(v.select(tiny, 0.0, best["scale"]), v.select(tiny, 0.0, best["inverse"]), top)
