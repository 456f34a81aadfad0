"""NVFP4: 64 weights in 36 bytes, 4.5 bits per weight, four-bit floats in four sub-blocks of 16.

    0  d   4 bytes: a scale of each sub-block, an unsigned float of four bits of exponent and three of mantissa (UE4M3)
    4  qs  32 bytes: of each sub-block, quant i in the low half of byte i, quant i + 8 in its high half

    w = d * q, see float4

Layout and rounding: block_nvfp4, quantize_row_nvfp4_ref, ggml_fp32_to_ue4m3 and ggml_ue4m3_to_fp32 (ggml-common.h,
ggml-quants.c, ggml-impl.h).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.float4 import nearest_quant, twice, worths
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Real, Reals, Whole

DTYPE = dtypes.NVFP4

_LARGEST = 6.0  # four-bit float


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    scales, words = v.wholes(4), v.wholes(9)
    for s in v.loop(0, 4, unroll=1):
        sub = x.part(16 * s)
        largest = v.fold(v.larger, v.real(0.0), (abs(sub[i]) for i in range(16)))
        scales[s] = _ue4m3(v, largest / _LARGEST)
        worth = worths(v, _half_of_ue4m3(v, scales[s]))
        for k in range(2):
            both = [[nearest_quant(v, sub[4 * k + b + half], worth) for half in (0, 8)] for b in range(4)]
            words[2 * s + (k + 1)] = v.pack(*(low | high << 4 for low, high in both))
    words[0] = v.pack(*(scales[s] for s in range(4)))
    block.store(0, words, 9)


def _ue4m3(v: Machine, value: Real) -> Whole:
    """The nearest one, halves up; from 248 on always 448, the largest."""
    bits = v.smaller(value, v.real(448.0)).bits()
    number = ((bits + (1 << 19)) >> 20) - (127 - 7 << 3)
    number = v.select((number >> 3).equals(15), 126, number)
    denormal = v.truncate(value * 512.0 + 0.5).at_most(7)
    return v.select(value < 2.0**-6, denormal, number)


def _half_of_ue4m3(v: Machine, d: Whole) -> Real:
    """Half its worth; 127, which is no number, counts as 0."""
    mantissa = (d & 7).real()
    power = ((d >> 3 & 15) + (127 - 8) << 23).as_bits()
    denormal = (d >> 3 & 15).equals(0)
    worth = v.select(denormal, mantissa * 2.0**-10, (mantissa / 8.0 + 1.0) * power)
    return v.select(d.equals(127), 0.0, worth)


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    words = block.load(0, 9)
    for s in range(4):
        half_scale = _half_of_ue4m3(v, words[0] >> (8 * s) & 255)
        for k in range(2):
            for b in range(4):
                both = words[2 * s + k + 1] >> (8 * b)
                i = 16 * s + 4 * k + b
                x[i], x[i + 8] = twice(v, both & 15) * half_scale, twice(v, both >> 4 & 15) * half_scale
