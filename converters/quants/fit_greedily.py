"""Q3_K's own search: from a first guess, quants are moved one at a time as long as the error falls.

make_q3_quants in ggml-quants.c.
"""

from __future__ import annotations

from converters.quants.fit_scale import TINY, quant
from converters.quants.vector import Machine, Real, Reals, Wholes


def fit_greedily(v: Machine, x: Reals, found: Wholes, n: int, *, top: int) -> Real:
    """The scale of n weights. found becomes their quants plus top, 0 to 2 * top - 1; all 0 where the weights are tiny.

    Five rounds are made; ggml stops after one that changes nothing, and so no further one would change anything.
    """
    farthest = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, n)))
    tiny = abs(farthest) < TINY
    inverse = -float(top) / farthest
    quants, weights, products = v.reals(n), v.reals(n), v.reals(n)

    def first_guess(i: int) -> tuple[Real, Real]:
        w = x[i]
        q = quant(v, w, inverse, top).real()
        quants[i], weights[i], products[i] = q, w * w, w * w * w
        return products[i] * q, weights[i] * q * q

    sum_xq, sum_q2 = v.sums(2, (first_guess(i) for i in v.loop(0, n, unroll=n)))
    best = v.kept(sum_xq=sum_xq, sum_q2=sum_q2)
    for _ in v.loop(0, 5, unroll=1):
        for i in v.loop(0, n, unroll=n):
            old, sum_xq, sum_q2 = quants[i], best["sum_xq"], best["sum_q2"]
            rest_xq = sum_xq - products[i] * old
            rest_q2 = sum_q2 - weights[i] * old * old
            new = v.nearest_whole(x[i] * rest_q2 / rest_xq).clamp(-top, top - 1).real()
            new_xq = rest_xq + products[i] * new
            new_q2 = rest_q2 + weights[i] * new * new
            gains = (new_q2 > 0.0) & (new_xq * new_xq * sum_q2 > sum_xq * sum_xq * new_q2)
            moved = (rest_xq > 0.0) & ~new.equals(old) & gains
            quants[i] = v.select(moved, new, old)
            best.keep(moved, sum_xq=new_xq, sum_q2=new_q2)
    for i in v.loop(0, n, unroll=n):
        found[i] = v.select(tiny, 0, v.nearest_whole(quants[i]) + top)
    scale = v.select(best["sum_q2"] > 0.0, best["sum_xq"] / best["sum_q2"], 0.0)
    return v.select(tiny, 0.0, scale)
