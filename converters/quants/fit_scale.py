"""The search of the types that store a scale alone: weight = scale * quant, quants from -top to top - 1.

make_qx_quants in ggml-quants.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.quants.vector import Machine, Real, Reals, Whole

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
    for i in v.loop(0, n, unroll=n):
        products[i] = importance[i] * x[i]

    def sums_for(inverse: Real) -> tuple[Real, ...]:
        def terms(i: int) -> tuple[Real, Real]:
            q = quant(v, x[i], inverse, top).real()
            return products[i] * q, importance[i] * q * q

        return v.sums(2, (terms(i) for i in v.loop(0, n, unroll=n)))

    inverse = -float(top) / farthest
    sum_xq, sum_q2 = sums_for(inverse)
    scale = v.select(sum_q2.equals(0.0), 0.0, sum_xq / sum_q2)
    best = v.kept(scale=scale, score=scale * sum_xq, inverse=inverse)
    for trial in v.loop(0, 18, unroll=1):
        tenths = v.real(trial)
        tenths = v.select(tenths < 9.0, tenths - 9.0, tenths - 8.0)  # -9 to 9 without 0
        inverse = -(float(top) + 0.1 * tenths) / farthest
        sum_xq, sum_q2 = sums_for(inverse)
        better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
        scale = sum_xq / sum_q2
        best.keep(better, scale=scale, score=scale * sum_xq, inverse=inverse)
    return ScaleFit(v.select(tiny, 0.0, best["scale"]), v.select(tiny, 0.0, best["inverse"]), top)
