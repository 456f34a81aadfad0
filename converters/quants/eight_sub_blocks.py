"""What Q4_K and Q5_K share: eight sub-blocks of 32 weights, each with a 6-bit scale and a 6-bit minimum.

    w = d * scale * q - dmin * minimum

The head of the block:

      0  d       float16: scale of the scales
      2  dmin    float16: scale of the minimums
      4  scales  12 bytes:
                 byte j = 0..3      scale j, and above it the two high bits of scale j + 4
                 byte 4 + j         minimum j, and above it the two high bits of minimum j + 4
                 byte 8 + j         the four low bits of scale j + 4, and above them those of minimum j + 4

quantize_row_q4_K_ref, quantize_row_q5_K_ref and get_scale_min_k4 in ggml-quants.c.
"""

from __future__ import annotations

from converters.quants.fit_minimum import Fit, fit_minimum
from converters.quants.fit_positive import fit_two
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.vector import Block, Machine, Real, Reals, Whole, Wholes


def quantize_sub_blocks(
    v: Machine,
    x: Reals,
    block: Block,
    importance: Importance | None,
    *,
    top: int,
    first: float,
    step: float,
    n_steps: int,
) -> Wholes:
    """Write the head of the block; 256 quants, 0 to top, are what its body must hold.

    first, step and n_steps are those of the search without an importance matrix.
    """
    scales, minimums, inverses, bases, total = (v.reals(8) for _ in range(5))
    weighed = v.reals(32)
    spread = 2.0 * v.sum(x[i] * x[i] for i in v.loop(0, 256, unroll=8)) / 256.0 if importance else v.real(0.0)
    for j in v.loop(0, 8, unroll=1):
        sub = x.part(32 * j)
        if importance:
            weigh(v, weighed, importance.columns.part(32 * j), sub, spread, 32)
            total[j] = v.sum(weighed[i] for i in v.loop(0, 32))
            fit = fit_minimum(v, sub, weighed, 32, top=top, first=-0.9, step=0.05, n_steps=36)
        else:
            mean = v.sqrt(mean_square(v, sub, 32))
            for i in v.loop(0, 32):
                weighed[i] = mean + abs(sub[i])
            fit = fit_minimum(v, sub, weighed, 32, top=top, first=first, step=step, n_steps=n_steps)
        scales[j], minimums[j], inverses[j], bases[j] = fit.scale, -fit.minimum, fit.inverse, fit.base

    if importance:
        (d, scale_quants), (dmin, minimum_quants) = fit_two(v, scales, minimums, total, 8, top=63)
    else:
        d, scale_quants = _evenly(v, scales)
        dmin, minimum_quants = _evenly(v, minimums)
    block.store_short(0, v.half(d))
    block.store_short(2, v.half(dmin))
    block.store(4, _pack_scales(v, scale_quants, minimum_quants), 3)

    # The quants, anew from the scales as they were stored; where a scale came out as 0, those of the search.
    steps, offsets = sub_block_scales(v, block)
    quants = v.wholes(256)
    for j in v.loop(0, 8, unroll=1):
        scale, minimum = steps[j], offsets[j]
        fit = Fit(scale, minimum, inverses[j], bases[j], top)
        for i in v.loop(0, 32):
            w = x[32 * j + i]
            nearest = v.nearest_whole((w + minimum) / scale).clamp(0, top)
            quants[32 * j + i] = v.select(scale.equals(0.0), fit.quant(v, w), nearest)
    return quants


def sub_block_scales(v: Machine, block: Block) -> tuple[Reals, Reals]:
    """d * scale and dmin * minimum of the eight sub-blocks, out of the head of the block."""
    d, dmin = block.load_short(0).half(), block.load_short(2).half()
    words = block.load(4, 3)
    scales, minimums = v.reals(8), v.reals(8)
    for j in range(4):
        scale, minimum, low = (words[k] >> (8 * j) for k in range(3))
        scales[j], minimums[j] = d * (scale & 63).real(), dmin * (minimum & 63).real()
        scales[j + 4] = d * ((low & 15) | ((scale >> 2) & 48)).real()
        minimums[j + 4] = dmin * (((low >> 4) & 15) | ((minimum >> 2) & 48)).real()
    return scales, minimums


def _evenly(v: Machine, x: Reals) -> tuple[Real, Wholes]:
    """A scale that puts the largest of eight numbers at 63, and their quants."""
    largest = v.fold(v.larger, v.real(0.0), (x[j] for j in range(8)))
    inverse = v.select(largest > 0.0, 63.0 / largest, 0.0)
    quants = v.wholes(8)
    for j in range(8):
        quants[j] = (v.nearest_whole(inverse * x[j]) & 255).at_most(63)
    return largest / 63.0, quants


def _pack_scales(v: Machine, scales: Wholes, minimums: Wholes) -> Wholes:
    """Three words. A value above 63 (a negative one that wrapped around) spills over, as in ggml."""
    words = v.wholes(3)
    words[0] = v.pack(*(_byte(scales[j], scales[j + 4]) for j in range(4)))
    words[1] = v.pack(*(_byte(minimums[j], minimums[j + 4]) for j in range(4)))
    words[2] = v.pack(*((scales[j + 4] & 15) | ((minimums[j + 4] & 15) << 4) for j in range(4)))
    return words


def _byte(low: Whole, high: Whole) -> Whole:
    return (low | ((high >> 4) << 6)) & 255


def scaled(scale: Real, quant: Whole, minimum: Real) -> Real:
    return scale * quant.real() - minimum
