"""Q5_0: 32 weights in 22 bytes, 5.5 bits per weight.

    0  d   float16: scale, with the sign that gives the weight farthest from zero quant 0
    2  qh  4 bytes: bit i of the word is the fifth bit of quant i
    6  qs  16 bytes: see nibbles; w = d * (q - 16)

Layout and rounding: block_q5_0 and quantize_row_q5_0_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fifth_bits import pack_fifth_bits, unpack_five_bits
from converters.quants.nibbles import pack_nibbles
from converters.quants.vector import Block, Machine, Reals

DTYPE = dtypes.Q5_0


def quantize(v: Machine, x: Reals, block: Block) -> None:
    d = v.fold(v.farther, v.real(0.0), (x[i] for i in v.loop(0, 32, unroll=32))) / -16.0
    inverse = v.reciprocal(d)
    quants = v.wholes(32)
    for i in v.loop(0, 32, unroll=32):
        quants[i] = (v.truncate(x[i] * inverse + 16.5) & 255).at_most(31)
    block.store_short(0, v.half(d))
    block.store(2, pack_fifth_bits(v, quants), 1)
    block.store(6, pack_nibbles(v, quants), 4)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    d, quants = block.load_short(0).half(), unpack_five_bits(v, block.load(2, 1), block.load(6, 4))
    for i in v.loop(0, 32, unroll=32):
        x[i] = d * (quants[i] - 16).real()
