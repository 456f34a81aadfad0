"""The search of IQ4_NL and IQ4_XS, whose quants are not evenly spaced: weight = scale * LEVELS[quant].

quantize_row_iq4_nl_impl and kvalues_iq4nl (ggml-quants.c, ggml-common.h).
"""

from __future__ import annotations

from itertools import pairwise

from converters.quants.fit_scale import TINY
from converters.quants.vector import Machine, Real, Reals, Whole

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_TWICE_BETWEEN = tuple(a + b for a, b in pairwise(LEVELS))
_N_TRIALS = 7


def nearest_quant(v: Machine, value: Real) -> Whole:
    """The quant whose level is nearest; the upper one of two that are equally near, the last for NaN."""
    twice = value + value
    quant = v.as_whole(0)
    for i, between in enumerate(_TWICE_BETWEEN, start=1):
        quant = v.select(twice.not_below(float(between)), i, quant)
    return quant


def nearest_level(v: Machine, value: Real) -> Real:
    twice = value + value
    level = v.real(LEVELS[0])
    for i, between in enumerate(_TWICE_BETWEEN, start=1):
        level = v.select(twice.not_below(float(between)), float(LEVELS[i]), level)
    return level


def level_of(v: Machine, quant: Whole) -> Real:
    """LEVELS[quant], for quants 0 to 15: one choice for each bit, from the highest."""
    levels = [v.real(level) for level in LEVELS]
    for bit in (3, 2, 1, 0):
        when = ((quant >> bit) & 1).equals(1)
        half = len(levels) // 2
        levels = [v.select(when, levels[half + i], levels[i]) for i in range(half)]
    return levels[0]


def fit_table(v: Machine, x: Reals, importance: Reals) -> Real:
    """The scale of 32 weights; 0 where all are tiny.

    Puts the weight farthest from zero at the farthest level, then tries to put it 1 to 7 steps nearer or farther. For
    the levels that each trial gives, the best scale is known in closed form; the least error of squares wins.
    """
    farthest = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, 32)))

    def sums_for(inverse: Real) -> tuple[Real, ...]:
        def terms(i: int) -> tuple[Real, Real]:
            w = x[i]
            level = nearest_level(v, inverse * w)
            weighted = importance[i] * level
            return weighted * w, weighted * level

        return v.sums(2, (terms(i) for i in v.loop(0, 32, unroll=4)))

    sum_xq, sum_q2 = sums_for(1.0 / (-farthest / float(LEVELS[0])))
    scale = v.select(sum_q2 > 0.0, sum_xq / sum_q2, 0.0)
    best = v.kept(scale=scale, score=scale * sum_xq)
    for trial in v.loop(0, 2 * _N_TRIALS + 1, unroll=1):
        steps = v.real(trial) - float(_N_TRIALS)
        sum_xq, sum_q2 = sums_for((steps + float(LEVELS[0])) / farthest)
        better = (sum_q2 > 0.0) & (sum_xq * sum_xq > best["score"] * sum_q2)
        scale = sum_xq / sum_q2
        best.keep(better, scale=scale, score=scale * sum_xq)
    return v.select(abs(farthest) < TINY, 0.0, best["scale"])
