"""Q3_K's own search: from a first guess, quants are moved one at a time as long as the error falls.

make_q3_quants in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.quants.fit_scale import TINY
from converters.quants.vector import Kept, Machine, Mask, Real, Reals, Wholes


class _Search:
    """The search for one sub-block of n weights, a step at a time."""

    def __init__(self, v: Machine, x: Reals, n: int, top: int) -> None:
        self.v, self.x, self.n, self.top = v, x, n, top
        self.quants, self.weights, self.products = v.reals(n), v.reals(n), v.reals(n)
        farthest = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, n, unroll=n)))
        self.tiny = abs(farthest) < TINY
        self.best = self._first_guess(-float(top) / farthest)

    def _first_guess(self, inverse: Real) -> Kept:
        v, x, weights, products = self.v, self.x, self.weights, self.products

        def terms(i: int) -> tuple[Real, Real]:
            q = v.nearest_within(inverse * x[i], -self.top, self.top - 1)
            self.quants[i], weights[i], products[i] = q, x[i] * x[i], x[i] * x[i] * x[i]
            return products[i] * q, weights[i] * q * q

        sum_xq, sum_q2 = v.sums(2, (terms(i) for i in v.loop(0, self.n, unroll=8)))
        return v.kept(sum_xq=sum_xq, sum_q2=sum_q2)

    def move(self, i: int) -> Mask:
        """Quant i to where it is best beside the others, if that lessens the error; where it did."""
        v, w, product, old = self.v, self.weights[i], self.products[i], self.quants[i]
        sum_xq, sum_q2 = self.best["sum_xq"], self.best["sum_q2"]
        rest_xq = sum_xq - product * old
        rest_q2 = sum_q2 - w * old * old
        new = v.nearest_whole(self.x[i] * rest_q2 / rest_xq).clamp(-self.top, self.top - 1).real()
        new_xq = rest_xq + product * new
        new_q2 = rest_q2 + w * new * new
        gains = (new_q2 > 0.0) & (new_xq * new_xq * sum_q2 > sum_xq * sum_xq * new_q2)
        moved = (rest_xq > 0.0) & ~new.equals(old) & gains
        self.quants[i] = v.select(moved, new, old)
        self.best.keep(moved, sum_xq=new_xq, sum_q2=new_q2)
        return moved

    def finish(self, found: Wholes) -> Real:
        v = self.v
        for i in v.loop(0, self.n, unroll=8):
            found[i] = v.select(self.tiny, 0, v.nearest_whole(self.quants[i]) + self.top)
        scale = v.select(self.best["sum_q2"] > 0.0, self.best["sum_xq"] / self.best["sum_q2"], 0.0)
        return v.select(self.tiny, 0.0, scale)


def fit_greedily(v: Machine, subs: Sequence[Reals], founds: Sequence[Wholes], n: int, *, top: int) -> list[Real]:
    """The scales of some sub-blocks of n weights each.

    founds becomes their quants plus top, 0 to 2 * top - 1; all 0 where the weights are tiny. Each move waits for the
    one before it, so the sub-blocks take turns: while one waits, the others move. At most five rounds are made, none
    after one that changes nothing.
    """
    searches = [_Search(v, x, n, top) for x in subs]
    moves = v.kept(any=v.real(1.0))
    for _ in v.repeat(5, until=lambda: moves["any"].equals(0.0)):
        moves.set(any=v.real(0.0))
        for i in v.loop(0, n, unroll=2):
            for search in searches:
                moves.keep(search.move(i), any=v.real(1.0))
    return [search.finish(found) for search, found in zip(searches, founds, strict=True)]
