"""Q2_K: 256 weights in 84 bytes, 2.625 bits per weight, as sixteen sub-blocks of 16.

      0  scales  16 bytes: a 4-bit scale of each sub-block, and above it a 4-bit minimum
     16  qs      64 bytes: of 128 weights, quants i, i + 32, i + 64, i + 96 in byte i, from the low bits up
     80  d       float16: scale of the scales
     82  dmin    float16: scale of the minimums

    w = d * scale * q - dmin * minimum

Layout and search: block_q2_K and quantize_row_q2_K_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_minimum import Fit, fit_minimum
from converters.quants.fit_positive import fit_two
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.two_bits import pack_two_bits
from converters.quants.vector import Block, Machine, Real, Reals, Wholes

DTYPE = dtypes.Q2_K


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scales, minimums, inverses, bases, totals = (v.reals(16) for _ in range(5))
    weighed = v.reals(16)
    spread = mean_square(v, x, 256) if importance else v.real(0.0)
    for j in v.loop(0, 16, unroll=1):
        sub = x.part(16 * j)
        if importance:
            weigh(v, weighed, importance.columns.part(16 * j), sub, spread, 16)
            totals[j] = v.sum(weighed[i] for i in v.loop(0, 16))
            fit = fit_minimum(v, sub, weighed, 16, top=3, first=-0.9, step=0.05, n_steps=36)
        else:
            for i in v.loop(0, 16, unroll=8):
                weighed[i] = abs(sub[i])
            fit = fit_minimum(v, sub, weighed, 16, top=3, first=-0.5, step=0.1, n_steps=15, absolute=True)
        scales[j], minimums[j], inverses[j], bases[j] = fit.scale, -fit.minimum, fit.inverse, fit.base

    if importance:
        (d_real, scale_quants), (dmin_real, minimum_quants) = fit_two(v, scales, minimums, totals, 16, top=15)
    else:
        d_real, scale_quants = _evenly(v, scales)
        dmin_real, minimum_quants = _evenly(v, minimums)
    d, dmin = v.half(d_real), v.half(dmin_real)
    packed = v.wholes(16)
    for j in range(16):
        packed[j] = (scale_quants[j] | minimum_quants[j] << 4) & 255
    words = v.wholes(4)
    for k in range(4):
        words[k] = v.pack(*(packed[4 * k + b] for b in range(4)))
    block.store(0, words, 4)
    block.store_short(80, d)
    block.store_short(82, dmin)

    quants = v.wholes(256)
    for j in v.loop(0, 16, unroll=1):
        scale_real = d.half() * (packed[j] & 15).real()
        minimum_real = dmin.half() * (packed[j] >> 4).real()
        fit = Fit(scale_real, minimum_real, inverses[j], bases[j], 3)
        for i in v.loop(0, 16, unroll=8):
            w = x[16 * j + i]
            nearest = v.nearest_whole((w + minimum_real) / scale_real).clamp(0, 3)
            quants[16 * j + i] = v.select(scale_real.equals(0.0), fit.quant(v, w), nearest)
    block.store(16, pack_two_bits(v, quants), 16)


def _evenly(v: Machine, x: Reals) -> tuple[Real, Wholes]:
    """A scale that puts the largest of sixteen numbers at 15, and their quants."""
    largest = v.fold(v.larger, v.real(0.0), (x[j] for j in range(16)))
    some, inverse = largest > 0.0, 15.0 / largest
    quants = v.wholes(16)
    for j in range(16):
        quants[j] = v.select(some, v.nearest_whole(inverse * x[j]), 0)
    return v.select(some, largest / 15.0, 0.0), quants


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    scale_words, words = block.load(0, 4), block.load(16, 16)
    d, dmin = block.load_short(80).half(), block.load_short(82).half()
    scales, minimums = v.reals(16), v.reals(16)
    for j in range(16):
        packed = scale_words[j // 4] >> (8 * (j % 4))
        scales[j], minimums[j] = d * (packed & 15).real(), dmin * ((packed >> 4) & 15).real()

    def weight(j: int, q: Real) -> Real:
        return scales[j] * q - minimums[j]

    for n in v.loop(0, 2, unroll=1):
        for half in range(2):
            for k in range(4):
                word = words[8 * n + (4 * half + k)]
                for b in range(4):
                    for c in range(4):
                        q = (word >> (8 * b + 2 * c)) & 3
                        x[128 * n + (32 * c + 16 * half + 4 * k + b)] = weight(8 * n + (2 * c + half), q.real())
