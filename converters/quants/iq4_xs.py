"""IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight: eight sub-blocks of 32 at IQ4_NL's levels.

    0  d         float16: scale of the scales
    2  scales_h  16-bit word: two high bits of scale j at bit 2 * j
    4  scales_l  4 bytes: four low bits of scales 2 * i and 2 * i + 1 in byte i
    8  qs        128 bytes: sub-block after sub-block, see nibbles

    w = d * (scale - 32) * LEVELS[q]

Layout and search: block_iq4_xs and quantize_row_iq4_nl_impl (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_table import fit_table, level_of, nearest_quant
from converters.quants.importance import Importance, mean_square, weigh
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.IQ4_XS


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scales, weighed = v.reals(8), v.reals(32)
    spread = 2.0 * mean_square(v, x, 256) if importance else v.real(0.0)
    for j in v.loop(0, 8, unroll=1):
        sub = x.part(32 * j)
        if importance:
            weigh(v, weighed, importance.columns.part(32 * j), sub, spread, 32)
        else:
            for i in v.loop(0, 32):
                weighed[i] = sub[i] * sub[i]
        scales[j] = fit_table(v, sub, weighed)

    d = -v.fold(v.farther, v.real(0.0), (scales[j] for j in range(8))) / 32.0
    to_scale = v.reciprocal(d)
    scale_quants, inverses = v.wholes(8), v.reals(8)
    for j in range(8):
        scale_quant = v.nearest_whole(to_scale * scales[j]).clamp(-32, 31)
        scale_quants[j], inverses[j] = scale_quant + 32, v.reciprocal(d * scale_quant.real())
    block.store_short(0, v.half(d))
    high = [scale_quants[j] >> 4 << (2 * j) for j in range(8)]
    block.store_short(2, v.fold(lambda word, part: word | part, high[0], high[1:]))
    low = v.wholes(1)
    low[0] = v.pack(*((scale_quants[j] & 15) | (scale_quants[j + 1] & 15) << 4 for j in range(0, 8, 2)))
    block.store(4, low, 1)

    quants, words = v.wholes(32), v.wholes(32)
    for j in v.loop(0, 8, unroll=1):
        inverse = inverses[j]
        for i in v.loop(0, 32):
            quants[i] = nearest_quant(v, inverse * x[32 * j + i])
        for k in range(4):
            q = quants.part(4 * k)
            words[4 * j + k] = v.pack(*(q[b] | q[b + 16] << 4 for b in range(4)))
    block.store(8, words, 32)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, high, low, words = block.load_short(0).half(), block.load_short(2), block.load(4, 1), block.load(8, 32)
    scales = v.reals(8)
    for j in range(8):
        q = ((low[0] >> (4 * j)) & 15) | ((high >> (2 * j)) & 3) << 4
        scales[j] = d * (q - 32).real()
    for j in v.loop(0, 8, unroll=1):
        for k in range(4):
            for b in range(4):
                both = words[4 * j + k] >> (8 * b)
                x[32 * j + (4 * k + b)] = scales[j] * level_of(v, both & 15)
                x[32 * j + (4 * k + b + 16)] = scales[j] * level_of(v, (both >> 4) & 15)
