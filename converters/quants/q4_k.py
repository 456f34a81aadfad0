"""Q4_K: 256 weights in 144 bytes, 4.5 bits per weight, as eight sub-blocks of 32.

      0  head  16 bytes: see eight_sub_blocks
     16  qs    128 bytes: of 64 weights, quant i in the low half of byte i, quant i + 32 in its high half

Layout and search: block_q4_K and quantize_row_q4_K_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.eight_sub_blocks import quantize_sub_blocks, scaled, sub_block_scales
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q4_K


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    quants = quantize_sub_blocks(v, x, block, importance, top=15, first=-1.0, step=0.1, n_steps=20)
    words = v.wholes(32)
    for c in v.loop(0, 4, unroll=1):
        for k in v.loop(0, 8):
            q = quants.part(64 * c + 4 * k)
            words[8 * c + k] = v.pack(*(q[b] | q[b + 32] << 4 for b in range(4)))
    block.store(16, words, 32)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    scales, minimums = sub_block_scales(v, block)
    words = block.load(16, 32)
    for c in v.loop(0, 4, unroll=1):
        for k in v.loop(0, 8):
            for b in range(4):
                q = words[8 * c + k] >> (8 * b)
                i = 64 * c + 4 * k + b
                x[i] = scaled(scales[2 * c], q & 15, minimums[2 * c])
                x[i + 32] = scaled(scales[2 * c + 1], (q >> 4) & 15, minimums[2 * c + 1])
