"""Q1_0: 128 weights in 18 bytes, 1.125 bits per weight: each is -d or d.

    0  d   float16: scale, the mean magnitude
    2  qs  16 bytes: bit i is set where weight i is not negative

Layout and rounding: block_q1_0 and quantize_row_q1_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q1_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    block.store_short(0, v.half(v.sum(abs(x[i]) for i in v.loop(0, 128, unroll=16)) / 128.0))
    words = v.wholes(4)
    for k in v.loop(0, 4, unroll=1):
        part = x.part(32 * k)
        words[k] = v.bits(*(v.select(part[i] >= 0.0, v.as_whole(1), 0) for i in range(32)))
    block.store(2, words, 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, words = block.load_short(0).half(), block.load(2, 4)
    for k in v.loop(0, 4, unroll=1):
        part = x.part(32 * k)
        for i in range(32):
            part[i] = v.select((words[k] >> i & 1).equals(1), d, -d)
