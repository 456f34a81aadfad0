"""Q5_K: 256 weights in 176 bytes, 5.5 bits per weight, as eight sub-blocks of 32.

      0  head  16 bytes: see eight_sub_blocks
     16  qh    32 bytes: bit j of byte i is the fifth bit of quant 32 * j + i
     48  qs    128 bytes: of 64 weights, four bits of quant i in the low half of byte i, of i + 32 in its high half

Layout and search: block_q5_K and quantize_row_q5_K_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.eight_sub_blocks import quantize_sub_blocks, scaled, sub_block_scales
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q5_K


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    quants = quantize_sub_blocks(v, x, block, importance, top=31, first=-0.5, step=0.1, n_steps=15)
    high, low = v.wholes(8), v.wholes(32)
    for k in v.loop(0, 8, unroll=1):
        q = quants.part(4 * k)
        fifth = [v.bits(*((q[32 * j + b] >> 4) & 1 for j in range(8))) for b in range(4)]
        high[k] = v.pack(*fifth)
    for c in v.loop(0, 4, unroll=1):
        for k in v.loop(0, 8):
            q = quants.part(64 * c + 4 * k)
            low[8 * c + k] = v.pack(*((q[b] & 15) | (q[b + 32] & 15) << 4 for b in range(4)))
    block.store(16, high, 8)
    block.store(48, low, 32)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    scales, minimums = sub_block_scales(v, block)
    high, low = block.load(16, 8), block.load(48, 32)
    for k in v.loop(0, 8, unroll=1):
        for c in range(4):
            for b in range(4):
                q, fifth = low[k + 8 * c] >> (8 * b), high[k] >> (8 * b + 2 * c)
                i = 4 * k + 64 * c + b
                x[i] = scaled(scales[2 * c], (q & 15) | (fifth & 1) << 4, minimums[2 * c])
                x[i + 32] = scaled(scales[2 * c + 1], ((q >> 4) & 15) | (fifth & 2) << 3, minimums[2 * c + 1])
