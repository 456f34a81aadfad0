"""TQ2_0: 256 weights in 66 bytes, 2.0625 bits per weight: each is -d, 0 or d.

     0  qs  64 bytes: see two_bits
    64  d   float16: scale; w = d * (q - 1)

Layout and rounding: block_tq2_0 and quantize_row_tq2_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.importance import Importance
from converters.quants.ternary import ternary_scale
from converters.quants.two_bits import pack_two_bits
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.TQ2_0


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scale = ternary_scale(v, x)
    quants = v.wholes(256)
    for i in v.loop(0, 256):
        quants[i] = scale.quant(v, x[i])
    block.store(0, pack_two_bits(v, quants), 16)
    block.store_short(64, scale.d)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    words, d = block.load(0, 16), block.load_short(64).half()
    for n in v.loop(0, 2, unroll=1):
        for k in v.loop(0, 8, unroll=1):
            for b in range(4):
                for c in range(4):
                    q = words[8 * n + k] >> (8 * b + 2 * c) & 3
                    x[128 * n + 4 * k + (32 * c + b)] = d * (q - 1).real()
