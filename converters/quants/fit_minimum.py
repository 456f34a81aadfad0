"""The search of the types that store a scale and a minimum: weight = scale * quant + minimum.

make_qkx2_quants and make_qkx3_quants in ggml-quants.c, which do the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.quants.vector import Machine, Mask, Real, Reals, Whole


@dataclass(frozen=True)
class Fit:
    """weight ≈ scale * quant + minimum, minimum ≤ 0; the quants that the search settled on come back by `quant`."""

    scale: Real
    minimum: Real
    inverse: Real
    base: Real
    top: int

    def quant(self, v: Machine, weight: Real) -> Whole:
        return quant(v, weight, self.inverse, self.base, self.top)


def quant(v: Machine, weight: Real, inverse: Real, base: Real, top: int) -> Whole:
    return v.nearest_whole(inverse * (weight - base)).clamp(0, top)


def fit_minimum(
    v: Machine,
    x: Reals,
    importance: Reals,
    n: int,
    *,
    top: int,
    first: float,
    step: float,
    n_steps: int,
    absolute: bool = False,
) -> Fit:
    """Scale and minimum for n weights and quants 0 to top.

    Starts from the range of the weights, then tries n_steps + 1 other scales, (top + first + step * s) quants across
    the range. For the quants that each gives, the best scale and minimum are known in closed form (weighted least
    squares); the least error (of squares, or of absolute values) wins, and a new minimum also moves the next trials.
    """
    low = v.fold(v.smaller, x[0], (x[i] for i in v.loop(1, n)))
    high = v.fold(v.larger, x[0], (x[i] for i in v.loop(1, n)))
    sum_w = v.sum((importance[i] for i in v.loop(1, n)), start=importance[0])
    sum_x = v.sum((importance[i] * x[i] for i in v.loop(1, n)), start=importance[0] * x[0])
    low = v.select(low > 0.0, 0.0, low)
    flat = high.equals(low)

    def error_of(quants: Reals, scale: Real, minimum: Real) -> Real:
        def terms(i: int) -> Real:
            difference = scale * quants[i] + minimum - x[i]
            return importance[i] * (abs(difference) if absolute else difference * difference)

        return v.sum(terms(i) for i in v.loop(0, n))

    quants = v.reals(n)
    inverse = float(top) / (high - low)
    for i in v.loop(0, n):
        quants[i] = quant(v, x[i], inverse, low, top).real()
    scale = 1.0 / inverse
    best = v.kept(error=error_of(quants, scale, low), scale=scale, minimum=low, inverse=inverse, base=low)

    def terms(i: int, inverse: Real, base: Real, usual: bool) -> tuple[Real, ...]:
        q = inverse * (x[i] - base)
        q = v.nearest_within(q, 0, top) if usual else v.nearest_whole(q).clamp(0, top).real()
        quants[i] = q
        weighed = importance[i] * q
        return weighed, weighed * q, weighed * x[i]

    sums = v.kept(q=v.real(0.0), q2=v.real(0.0), xq=v.real(0.0))
    for s in v.loop(0, n_steps + 1, unroll=1):
        base = best["minimum"]
        inverse = (first + step * v.real(s) + float(top)) / (high - base)
        inverse = v.select(flat, 0.0, inverse)
        for usual in v.either(_within_reach(inverse * (low - base)) & _within_reach(inverse * (high - base))):
            sum_q, sum_q2, sum_xq = v.sums(3, (terms(i, inverse, base, usual) for i in v.loop(0, n)))
            sums.set(q=sum_q, q2=sum_q2, xq=sum_xq)
        sum_q, sum_q2, sum_xq = sums["q"], sums["q2"], sums["xq"]
        determinant = sum_w * sum_q2 - sum_q * sum_q
        scale = (sum_w * sum_xq - sum_x * sum_q) / determinant
        minimum = (sum_q2 * sum_x - sum_q * sum_xq) / determinant
        above = minimum > 0.0
        scale = v.select(above, sum_xq / sum_q2, scale)
        minimum = v.select(above, 0.0, minimum)
        error = error_of(quants, scale, minimum)
        better = (determinant > 0.0) & (error < best["error"])
        best.keep(better, error=error, scale=scale, minimum=minimum, inverse=inverse, base=base)

    return Fit(
        scale=v.select(flat, 0.0, best["scale"]),
        minimum=v.select(flat, low, best["minimum"]),
        inverse=v.select(flat, 0.0, best["inverse"]),
        base=v.select(flat, 0.0, best["base"]),
        top=top,
    )


def _within_reach(value: Real) -> Mask:
    """Of `nearest_within`. What lies between two values within reach is so, too."""
    return abs(value) < float(2**21)
