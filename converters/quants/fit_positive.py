"""The scales of a super-block's sub-blocks, made small numbers of their own, each counting as much as its weights do.

make_qp_quants in ggml-quants.c.
"""

from __future__ import annotations

from converters.quants.fit_scale import TINY
from converters.quants.vector import Machine, Real, Reals, Wholes


def fit_positive(v: Machine, x: Reals, importance: Reals, quants: Wholes, n: int, *, top: int) -> Real:
    """A scale for n numbers that should be positive. quants become theirs: x ≈ scale * quant, quants up to top.

    Nine scales near the one that puts the largest at top are tried, then quants are moved one at a time as long as the
    error falls. A quant is kept as a byte: a negative one wraps around, and is reckoned with as that, as in ggml.
    At most five rounds are made, none after one that changes nothing.
    """
    largest = v.fold(lambda a, b: v.select(a > b, a, b), v.real(0.0), (x[i] for i in v.loop(0, n, unroll=8)))
    tiny = largest < TINY

    def error_of(inverse: Real, scale: Real, *, bytewise: bool) -> Real:
        def term(i: int) -> Real:
            q = v.nearest_whole(inverse * x[i])
            difference = x[i] - scale * (q & 255 if bytewise else q.at_most(top)).real()
            return importance[i] * difference * difference

        return v.sum(term(i) for i in v.loop(0, n, unroll=8))

    inverse = float(top) / largest
    best = v.kept(error=error_of(inverse, 1.0 / inverse, bytewise=True), inverse=inverse)
    for trial in v.loop(0, 8, unroll=1):
        tenths = v.real(trial)
        tenths = v.select(tenths < 4.0, tenths - 4.0, tenths - 3.0)  # -4 to 4 without 0
        inverse = (0.1 * tenths + float(top)) / largest
        error = error_of(inverse, 1.0 / inverse, bytewise=False)
        best.keep(error < best["error"], error=error, inverse=inverse)

    inverse = best["inverse"]

    def terms(i: int) -> tuple[Real, Real]:
        q = v.nearest_whole(inverse * x[i]).at_most(top)
        quants[i] = q & 255
        return importance[i] * x[i] * q.real(), importance[i] * q.real() * q.real()

    sum_xq, sum_q2 = v.sums(2, (terms(i) for i in v.loop(0, n, unroll=8)))
    sums = v.kept(xq=sum_xq, q2=sum_q2)
    moves = v.kept(any=v.real(1.0))
    for _ in v.repeat(5, until=lambda: moves["any"].equals(0.0)):
        moves.set(any=v.real(0.0))
        for i in v.loop(0, n, unroll=8):
            w, old, sum_xq, sum_q2 = importance[i], quants[i], sums["xq"], sums["q2"]
            rest_xq = sum_xq - w * x[i] * old.real()
            rest_q2 = sum_q2 - w * old.real() * old.real()
            new = v.nearest_whole(x[i] * rest_q2 / rest_xq).at_most(top)
            new_xq = rest_xq + w * x[i] * new.real()
            new_q2 = rest_q2 + w * new.real() * new.real()
            gains = new_xq * new_xq * sum_q2 > sum_xq * sum_xq * new_q2
            moved = (rest_xq > 0.0) & (rest_q2 > 0.0) & ~new.equals(old) & gains
            quants[i] = v.select(moved, new & 255, old)
            sums.keep(moved, xq=new_xq, q2=new_q2)
            moves.keep(moved, any=v.real(1.0))
    for i in v.loop(0, n, unroll=8):
        quants[i] = v.select(tiny, 0, quants[i])
    scale = v.select(sums["q2"] > 0.0, sums["xq"] / sums["q2"], 0.0)
    return v.select(tiny, 0.0, scale)


def fit_two(
    v: Machine, first: Reals, second: Reals, importance: Reals, n: int, *, top: int
) -> tuple[tuple[Real, Wholes], tuple[Real, Wholes]]:
    """`fit_positive` of two rows, one after the other in the same code: the scale and the quants of each."""
    rows, scales, quants = v.reals(2 * n), v.reals(2), v.wholes(2 * n)
    for i in range(n):
        rows[i], rows[n + i] = first[i], second[i]
    for r in v.loop(0, 2, unroll=1):
        scales[r] = fit_positive(v, rows.part(n * r), importance, quants.part(n * r), n, top=top)
    return (scales[0], quants), (scales[1], quants.part(n))
