"""Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight, as sixteen sub-blocks of 16.

      0  hmask   32 bytes: bit j of byte i is the third bit of quant 32 * j + i
     32  qs      64 bytes: of 128 weights, two bits of quants i, i + 32, i + 64, i + 96 in byte i, from the low bits up
     96  scales  12 bytes: four bits of scales j and j + 8 in byte j (j = 0..7), then in byte 8 + j (j = 0..3) two bits
                 of scales j, j + 4, j + 8, j + 12, from the low bits up
    108  d       float16: scale of the scales

    w = d * (scale - 32) * (q - 4)

Layout and search: block_q3_K and quantize_row_q3_K_ref (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from converters import dtypes
from converters.quants.fit_greedily import fit_greedily
from converters.quants.fit_scale import fit_scale
from converters.quants.importance import Importance, weigh
from converters.quants.two_bits import pack_two_bits
from converters.quants.vector import Block, Machine, Reals, Whole, Wholes

DTYPE = dtypes.Q3_K


_AT_ONCE = 4  # sub-blocks that are searched side by side


def quantize(v: Machine, x: Reals, block: Block, importance: Importance | None) -> None:
    if importance:
        d, scale_quants, found = _weighed_search(v, x, importance)
    else:
        d, scale_quants, found = _search(v, x)
    words = v.wholes(3)
    for k in range(2):
        words[k] = v.pack(*((scale_quants[j] & 15) | (scale_quants[j + 8] & 15) << 4 for j in range(4 * k, 4 * k + 4)))
    tops = [[scale_quants[j + 4 * c] >> 4 for c in range(4)] for j in range(4)]
    words[2] = v.pack(*(c0 | c1 << 2 | (c2 << 4 | c3 << 6) for c0, c1, c2, c3 in tops))
    block.store(96, words, 3)
    block.store_short(108, d)

    # The quants, anew from the scales as they are stored; where a scale came out as 0, those of the search.
    quants = v.wholes(256)
    for j in v.loop(0, 16, unroll=1):
        scale = d.half() * (scale_quants[j] - 32).real()
        for i in v.loop(0, 16, unroll=8):
            nearest = v.nearest_whole(x[16 * j + i] / scale).clamp(-4, 3) + 4
            quants[16 * j + i] = v.select(scale.equals(0.0), found[16 * j + i], nearest)
    thirds = v.wholes(8)
    for k in v.loop(0, 8, unroll=1):
        q = quants.part(4 * k)
        thirds[k] = v.pack(*(v.bits(*(q[32 * j + b] >> 2 for j in range(8))) for b in range(4)))
    block.store(0, thirds, 8)
    block.store(32, pack_two_bits(v, quants), 16)


def _search(v: Machine, x: Reals) -> tuple[Whole, Wholes, Wholes]:
    """d, the scales plus 32, and the quants plus 4 that the search settled on."""
    scales, found = v.reals(16), v.wholes(256)
    for group in v.loop(0, 16 // _AT_ONCE, unroll=1):
        places = [_AT_ONCE * group + k for k in range(_AT_ONCE)]
        subs, founds = [x.part(16 * j) for j in places], [found.part(16 * j) for j in places]
        for j, scale in zip(places, fit_greedily(v, subs, founds, 16, top=4), strict=True):
            scales[j] = scale
    farthest = v.fold(v.farther, v.real(0.0), (scales[j] for j in range(16)))
    empty = farthest.equals(0.0)
    to_scale = -32.0 / farthest
    scale_quants = v.wholes(16)
    for j in range(16):
        scale_quant = v.nearest_whole(to_scale * scales[j]).signed_byte().clamp(-32, 31) + 32
        scale_quants[j] = v.select(empty, 0, scale_quant)
    return v.select(empty, 0, v.half(1.0 / to_scale)), scale_quants, found


def _weighed_search(v: Machine, x: Reals, importance: Importance) -> tuple[Whole, Wholes, Wholes]:
    """The same by quantize_row_q3_K_impl, which searches otherwise."""
    scales, totals, found = v.reals(16), v.reals(16), v.wholes(256)
    weighed = v.reals(16)
    spread = 2.0 * v.sum(x[i] * x[i] for i in v.loop(0, 256, unroll=8)) / 256.0
    for j in v.loop(0, 16, unroll=1):
        sub = x.part(16 * j)
        weigh(v, weighed, importance.columns.part(16 * j), sub, spread, 16)
        totals[j] = v.sum(weighed[i] for i in v.loop(0, 16))
        fit = fit_scale(v, sub, weighed, 16, top=4)
        scales[j] = fit.scale
        for i in v.loop(0, 16, unroll=8):
            found[16 * j + i] = fit.quant(v, sub[i])
    fit = fit_scale(v, scales, totals, 16, top=32)
    scale_quants = v.wholes(16)
    for j in range(16):
        scale_quants[j] = fit.quant(v, scales[j])
    return v.half(fit.scale), scale_quants, found


def dequantize(v: Machine, block: Block, x: Reals) -> None:
    high, low, words = block.load(0, 8), block.load(32, 16), block.load(96, 3)
    d = block.load_short(108).half()
    scales = v.reals(16)
    for j in range(16):
        four = (words[j // 4 % 2] >> (8 * (j % 4) + 4 * (j // 8))) & 15
        two = (words[2] >> (8 * (j % 4) + 2 * (j // 4))) & 3
        scales[j] = d * ((four | two << 4) - 32).real()
    for k in range(8):
        for b in range(4):
            for n in range(2):
                for c in range(4):
                    two = (low[8 * n + k] >> (8 * b + 2 * c)) & 3
                    third = (high[k] >> (8 * b + 4 * n + c)) & 1
                    q = (two | third << 2) - 4
                    x[128 * n + 32 * c + 4 * k + b] = scales[8 * n + 2 * c + k // 4] * q.real()
