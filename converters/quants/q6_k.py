"""Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight, as sixteen sub-blocks of 16.

      0  ql      128 bytes: of 128 weights, four bits of quants i and i + 64 in byte i (i = 0..63)
    128  qh      64 bytes: of 128 weights, two bits of quants i, i + 32, i + 64, i + 96 in byte i, from the low bits up
    192  scales  16 int8: a scale of each sub-block
    208  d       float16: scale of the scales

    w = d * scale * (q - 32)

Layout and search: block_q6_K and quantize_row_q6_K_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_scale import TINY, ScaleFit, fit_scale
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q6_K


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scales, inverses, weighed = v.reals(16), v.reals(16), v.reals(16)
    for j in v.loop(0, 16, unroll=1):
        sub = x.part(16 * j)
        for i in v.loop(0, 16, unroll=8):
            weighed[i] = importance.columns[16 * j + i] if importance else sub[i] * sub[i]
        fit = fit_scale(v, sub, weighed, 16, top=32)
        scales[j], inverses[j] = fit.scale, fit.inverse

    farthest = v.fold(v.farther, v.real(0.0), (scales[j] for j in range(16)))
    empty = abs(farthest) < TINY
    to_scale = -128.0 / farthest
    d = v.select(empty, 0, v.half(1.0 / to_scale))
    scale_quants, scale_words = v.wholes(16), v.wholes(4)
    for j in range(16):
        scale_quants[j] = v.select(empty, 0, v.nearest_whole(to_scale * scales[j]).at_most(127))
    for k in range(4):
        scale_words[k] = v.pack(*(scale_quants[4 * k + b] & 255 for b in range(4)))

    # The quants, anew from the scales as they are stored; where a scale came out as 0, those of the search.
    quants = v.wholes(256)
    for j in v.loop(0, 16, unroll=1):
        scale = d.half() * scale_quants[j].signed_byte().real()
        fit = ScaleFit(scale, inverses[j], 32)
        for i in v.loop(0, 16, unroll=8):
            w = x[16 * j + i]
            nearest = v.nearest_whole(w / scale).clamp(-32, 31) + 32
            quants[16 * j + i] = v.select(empty, 0, v.select(scale.equals(0.0), fit.quant(v, w), nearest))

    low, high = v.wholes(32), v.wholes(16)
    for n in v.loop(0, 2, unroll=1):
        for k in v.loop(0, 8):
            q = quants.part(128 * n + 4 * k)
            low[16 * n + k] = v.pack(*((q[b] & 15) | (q[b + 64] & 15) << 4 for b in range(4)))
            low[16 * n + k + 8] = v.pack(*((q[b + 32] & 15) | (q[b + 96] & 15) << 4 for b in range(4)))
            tops = [[q[b + 32 * c] >> 4 for c in range(4)] for b in range(4)]
            high[8 * n + k] = v.pack(*(c0 | c1 << 2 | (c2 << 4 | c3 << 6) for c0, c1, c2, c3 in tops))
    block.store(0, low, 32)
    block.store(128, high, 16)
    block.store(192, scale_words, 4)
    block.store_short(208, d)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    low, high, scale_words = block.load(0, 32), block.load(128, 16), block.load(192, 4)
    d = block.load_short(208).half()
    scales = v.reals(16)
    for j in range(16):
        scales[j] = d * (scale_words[j // 4] >> (8 * (j % 4))).signed_byte().real()
    for n in v.loop(0, 2, unroll=1):
        for k in range(8):
            for b in range(4):
                for c in range(4):
                    four = low[16 * n + (8 * (c % 2) + k)] >> (8 * b + 4 * (c // 2))
                    two = high[8 * n + k] >> (8 * b + 2 * c)
                    q = ((four & 15) | (two & 3) << 4) - 32
                    x[128 * n + (32 * c + 4 * k + b)] = scales[8 * n + (2 * c + k // 4)] * q.real()
