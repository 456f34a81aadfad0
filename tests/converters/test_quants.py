"""Types both ways: literal blocks, and the same bytes as ggml and gguf-py on whatever can be thought of."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters import dtypes, quants
from converters.dtypes import DType
from converters.errors import UnrepresentableError
from converters.quants import bf16, f16
from converters.quants.base import KernelModule
from converters.quants.importance import WEIGHED_BY_ROW
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.kernel import KernelQuant
from tests.fakes import ggml

Floats = npt.NDArray[np.float32]

PLAIN = [dtype for dtype in quants.CODECS if dtype.is_plain]
BLOCK = [module.DTYPE for module in quants.KERNELS]  # those of the grids are in test_quants_grids.py
WITHOUT_SEARCH = (  # importance changes nothing
    dtypes.Q8_0, dtypes.TQ1_0, dtypes.TQ2_0, dtypes.MXFP4, dtypes.NVFP4, dtypes.Q1_0, dtypes.Q2_0,
)  # fmt: skip
name = str  # of a type, for the names of tests


def encode(weights: Floats, dtype: DType) -> npt.NDArray[np.uint8]:
    return quants.encode(weights, dtype, tensor="blk.0.ffn_up.weight", first_index=0)


def assert_same_bits(ours: Floats, theirs: Floats) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def hard_weights() -> dict[str, Floats]:
    """Weights that break a careless quantizer, each of shape (24, 512)."""
    random = np.random.default_rng(20)
    normal = random.standard_normal((24, 512)).astype(np.float32)
    zeros = np.zeros_like(normal)
    signed_zeros = np.where(normal > 0, np.float32(0), np.float32(-0.0))
    any_bits = random.integers(0, 2**32, normal.shape, dtype=np.uint64).astype(np.uint32).view(np.float32)
    cases = {
        "normal": normal,
        "zeros": zeros,
        "minus zeros": -zeros,
        "zeros of both signs": signed_zeros,
        "sparse": np.where(np.abs(normal) > 1.6, normal, np.float32(0)),
        "sparse with signed zeros": np.where(np.abs(normal) > 1.6, normal, signed_zeros),
        "all positive": np.abs(normal),
        "all negative": -np.abs(normal),
        "whole numbers, many ties": np.round(normal * 4),
        "halves": np.round(normal * 8) / np.float32(2),
        "outliers": np.where(np.abs(normal) > 2.5, normal * np.float32(100), normal),
        "a scale for each 32": normal * np.repeat(10.0 ** random.uniform(-4, 0, (24, 16)), 32, axis=1),
        "a scale for each 16": normal * np.repeat(10.0 ** random.uniform(-20, 4, (24, 32)), 16, axis=1),
        "any finite bits": np.where(np.isfinite(any_bits), any_bits, np.float32(0)),
        "largest": np.copysign(np.float32(3e38), normal),
    }
    for exponent in (-45, -44, -42, -40, -39, -38, -37, -36, -30, -20, -15, -10, -6, 4, 6, 20, 35, 37):
        cases[f"1e{exponent}"] = (normal.astype(np.float64) * 10.0**exponent).astype(np.float32)
    for constant in (1.0, -1.0, 0.1, -7.0, 1e-40, -1e-45, 65504.0, 1e38):
        cases[f"all {constant}"] = np.full_like(normal, constant)
    return {case: np.ascontiguousarray(weights, np.float32) for case, weights in cases.items()}


HARD = hard_weights()
ALL_HARD = np.concatenate(list(HARD.values()))


# Literal blocks


def test_q8_0_block_byte_by_byte() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, :5] = [127.0, -127.0, 0.5, -0.5, 1.25]
    d = [0x00, 0x3C]  # 127 / 127 = 1.0
    qs = [127, 256 - 127, 1, 256 - 1, 1] + [0] * 27  # halves go away from zero
    assert encode(weights, dtypes.Q8_0).tolist() == [d + qs]


def test_q4_0_block_byte_by_byte() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, [0, 1, 2, 16, 17]] = [-8.0, 8.0, 7.0, 0.5, -0.75]
    d = [0x00, 0x3C]  # -8 comes first among the largest: d = -8 / -8 = 1.0
    # Quants, trunc(w + 8.5): 0; 16, held to 15; 15; of the second half 9 and 7; elsewhere 8.
    qs = [0 | 9 << 4, 15 | 7 << 4, 15 | 8 << 4] + [0x88] * 13
    assert encode(weights, dtypes.Q4_0).tolist() == [d + qs]


def test_q4_1_block_byte_by_byte() -> None:
    weights = np.full((1, 32), 1.0, np.float32)
    weights[0, [0, 1, 16]] = [31.0, 2.0, 4.9]
    d = [0x00, 0x40]  # (31 - 1) / 15 = 2.0
    m = [0x00, 0x3C]  # 1.0
    # Quants, trunc((w - 1) / 2 + 0.5): 15, 1 (a half goes up), 2; elsewhere 0.
    qs = [15 | 2 << 4, 1] + [0] * 14
    assert encode(weights, dtypes.Q4_1).tolist() == [d + m + qs]


def decoded(dtype: DType, parts: dict[int, list[int]]) -> Floats:
    """The weights of a block that is zero but for some bytes: where they begin, and what they are."""
    block = np.zeros((1, dtype.block_bytes), np.uint8)
    for at, values in parts.items():
        block[0, at : at + len(values)] = values
    return quants.decode(block, dtype)[0]


ONE, TWO = [0x00, 0x3C], [0x00, 0x40]  # float16


def test_q5_0_block_byte_by_byte() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, [0, 1, 16, 31]] = [-16.0, 15.0, 3.0, -1.0]
    d = ONE  # -16 / -16
    # Quants, trunc(w + 16.5): 0, 31, 19, 15; elsewhere 16, whose low four bits are 0.
    qh = [0b11111110, 0xFF, 0xFF, 0b01111111]  # all but quants 0 and 31 have the fifth bit
    qs = [0 | 3 << 4, 15] + [0] * 13 + [15 << 4]
    assert encode(weights, dtypes.Q5_0).tolist() == [d + qh + qs]


def test_q5_1_block_byte_by_byte() -> None:
    weights = np.full((1, 32), 1.0, np.float32)
    weights[0, [0, 1, 17]] = [63.0, 2.0, 35.0]
    d, m = TWO, ONE  # (63 - 1) / 31, 1
    # Quants, trunc((w - 1) / 2 + 0.5): 31, 1, 17; elsewhere 0.
    qh = [0b00000001, 0, 0b00000010, 0]
    qs = [15, 1 | 1 << 4] + [0] * 14
    assert encode(weights, dtypes.Q5_1).tolist() == [d + m + qh + qs]


def test_iq4_nl_block_byte_by_byte() -> None:
    weights = np.zeros((1, 32), np.float32)
    levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    weights[0] = [*levels, *reversed(levels)]
    d = ONE
    qs = [i | (15 - i) << 4 for i in range(16)]  # quant i is level i
    assert encode(weights, dtypes.IQ4_NL).tolist() == [d + qs]
    assert_same_bits(quants.decode(np.array([d + qs], np.uint8), dtypes.IQ4_NL), weights)


def test_iq4_xs_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.IQ4_XS,
        {
            0: ONE,
            2: [0b00_00_00_10, 0b11_00_00_00],  # high bits of the scales: 2 of scale 0, 3 of scale 7
            4: [0x01, 0, 0, 0xF0],  # low bits: 1 of scale 0, 15 of scale 7
            8: [0x8F],  # quant 0 is 15, quant 16 is 8
            135: [0xF0],  # quant 255 is 15
        },
    )
    # Scales less 32: 33 - 32 = 1 and 63 - 32 = 31; 0 - 32 in between. Levels: 113, 1, and -127 for quant 0.
    assert [weights[i] for i in (0, 16, 1, 32, 255, 254)] == [113, 1, -127, -32 * -127, 31 * 113, 31 * -127]


def test_q2_k_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.Q2_K,
        {
            0: [3 | 2 << 4, 5 | 1 << 4],  # sub-blocks 0 and 1: scales 3 and 5, minimums 2 and 1
            15: [1],  # sub-block 15: scale 1, no minimum
            16: [0b11],  # quant 0 is 3 (quants 32, 64 and 96 are 0)
            16 + 16: [0b01],  # quant 16 is 1
            16 + 63: [0b10_00_00_00],  # quant 255 is 2
            80: TWO,
            82: ONE,
        },
    )
    expected = {0: 2 * 3 * 3 - 2, 1: -2, 16: 2 * 5 * 1 - 1, 31: -1, 32: 0, 255: 2 * 1 * 2}
    assert {i: weights[i] for i in expected} == expected


def test_q3_k_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.Q3_K,
        {
            0: [0b0000_0001],  # quant 0 has the third bit, 32, 64, ... have not
            31: [0b1000_0000],  # quant 255 has it
            32: [0b01],  # quant 0: 1, and 4 for the third bit
            95: [0b11_00_00_00],  # quant 255: 3, and 4
            96: [1 | 2 << 4],  # low bits of scales 0 and 8
            103: [15 << 4],  # of scale 15
            104: [0b00_10_00_10],  # high bits: 2 of scale 0, 2 of scale 8
            107: [0b11_00_00_00],  # 3 of scale 15
            108: TWO,
        },
    )
    # Scales less 32: 1 for sub-block 0, 2 for 8, 31 for 15. Quants less 4: 1, 3, and -4 for 0.
    expected = {0: 2 * 1 * 1, 1: 2 * 1 * -4, 128: 2 * 2 * -4, 255: 2 * 31 * 3, 254: 2 * 31 * -4}
    assert {i: weights[i] for i in expected} == expected


SIX_BITS = {
    0: ONE,
    2: TWO,
    4: [5 | 0b10 << 6, 0, 0, 7],  # scales 0 and 3, and the high bits of scale 4
    8: [1 | 0b01 << 6, 0, 0, 0],  # minimum 0, and the high bits of minimum 4
    12: [3 | 2 << 4, 0, 0, 0],  # the low bits of scale 4 and minimum 4
}  # scale 4 is 35, minimum 4 is 18


def test_q4_k_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.Q4_K,
        {
            **SIX_BITS,
            16: [9],  # quant 0
            16 + 63: [15 << 4],  # quant 127
            16 + 64: [4],  # quant 128
        },
    )
    expected = {0: 5 * 9 - 2 * 1, 1: -2, 32: 0, 127: 7 * 15, 128: 35 * 4 - 2 * 18, 129: -36}
    assert {i: weights[i] for i in expected} == expected


def test_q5_k_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.Q5_K,
        {
            **SIX_BITS,
            16: [0b0001_0001],  # the fifth bits of quants 0 and 128
            16 + 31: [0b0000_1000],  # of quant 127
            48: [9],  # quant 0: 9 and 16
            48 + 63: [15 << 4],  # quant 127: 15 and 16
            48 + 64: [4],  # quant 128: 4 and 16
        },
    )
    expected = {0: 5 * 25 - 2 * 1, 1: -2, 32: 0, 127: 7 * 31, 128: 35 * 20 - 2 * 18, 129: -36}
    assert {i: weights[i] for i in expected} == expected


def test_q6_k_block_byte_by_byte() -> None:
    weights = decoded(
        dtypes.Q6_K,
        {
            0: [7 | 5 << 4],  # low bits of quants 0 and 64
            127: [15 << 4],  # of quant 255
            128: [0b00_11_00_10],  # high bits: 2 of quant 0, 3 of quant 64
            191: [0b11_00_00_00],  # 3 of quant 255
            192: [3, 0, 0, 0, 256 - 2],  # sub-blocks 0 and 4: scales 3 and -2
            207: [127],  # sub-block 15
            208: ONE,
        },
    )
    # Quants less 32: 2 * 16 + 7 - 32 = 7, 3 * 16 + 5 - 32 = 21, 63 - 32 = 31, and -32 for 0.
    expected = {0: 3 * 7, 1: 3 * -32, 64: -2 * 21, 65: -2 * -32, 255: 127 * 31, 254: 127 * -32}
    assert {i: weights[i] for i in expected} == expected


def test_bf16_rounds_ties_to_even() -> None:
    bits = np.array([[0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF818000, 0x00008000, 0x00018000]], np.uint32)
    expected = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF82, 0x0000, 0x0002]
    assert encode(bits.view(np.float32), dtypes.BF16).view(np.uint16).tolist() == [expected]


def test_f16_rounds_ties_to_even_and_keeps_denormals() -> None:
    weights = np.array([[1.0, 1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 2**-25, -0.0, 65519.0]], np.float32)
    expected = [0x3C00, 0x3C00, 0x3C02, 0x0001, 0x0000, 0x8000, 0x7BFF]
    assert encode(weights, dtypes.F16).view(np.uint16).tolist() == [expected]


def test_f32_keeps_every_bit() -> None:
    bits = np.array([[0x7F800001, 0xFFC12345, 0x7F800000, 0x80000000, 0x00000001]], np.uint32)
    encoded = encode(bits.view(np.float32), dtypes.F32)
    np.testing.assert_array_equal(encoded.view(np.uint32), bits)
    np.testing.assert_array_equal(quants.decode(encoded, dtypes.F32).view(np.uint32), bits)


# The judges


def assert_same_blocks(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8], rows_per_case: int) -> None:
    """Equal, or the names of the hard cases that are not."""
    different = np.nonzero((ours != theirs).any(axis=1))[0] // rows_per_case
    assert not different.size, [list(HARD)[case] for case in sorted(set(different.tolist()))]


@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_hard_weights_become_ggmls_bytes(dtype: DType) -> None:
    assert_same_blocks(encode(ALL_HARD, dtype), ggml.quantize(ALL_HARD, dtype), rows_per_case=24)


@pytest.mark.parametrize("module", quants.KERNELS, ids=lambda module: module.DTYPE.name)
def test_numpy_carries_kernels_out_with_the_same_bytes(module: KernelModule) -> None:
    portable = KernelQuant(module, with_llvm=False)
    blocks = ALL_HARD.reshape(-1, module.DTYPE.block_size)
    with np.errstate(all="ignore"):
        ours = portable.quantize_blocks(blocks)
        decoded = portable.dequantize_blocks(ours)
    n_per_case = 24 * 512 // module.DTYPE.block_size
    assert_same_blocks(ours, ggml.quantize(ALL_HARD, module.DTYPE).reshape(ours.shape), n_per_case)
    assert_same_bits(decoded, quants.decode(ours, module.DTYPE))


def hard_importances() -> dict[str, Floats]:
    """Of 512 columns."""
    random = np.random.default_rng(5)
    plain = random.random(512)
    cases = {
        "plain": plain,
        "ones": np.ones(512),
        "zeros": np.zeros(512),
        "half zeros": np.where(random.random(512) < 0.5, 0.0, plain),
        "sub-blocks of zeros": np.where(np.arange(512) // 16 % 2, plain, 0.0),
        "tiny": plain * 1e-30,
        "far apart": 10.0 ** random.uniform(-8, 8, 512),
    }
    return {case: importance.astype(np.float32) for case, importance in cases.items()}


IMPORTANCE = hard_importances()


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_hard_weights_with_importance_become_ggmls_bytes(dtype: DType, importance: str) -> None:
    columns = IMPORTANCE[importance]
    ours = quants.encode(ALL_HARD, dtype, tensor="", first_index=0, importance=columns)
    assert_same_blocks(ours, ggml.quantize(ALL_HARD, dtype, columns), rows_per_case=24)


@pytest.mark.parametrize("module", quants.KERNELS, ids=lambda module: module.DTYPE.name)
def test_numpy_carries_kernels_with_importance_out_with_the_same_bytes(module: KernelModule) -> None:
    columns = IMPORTANCE["half zeros"]
    rows = ALL_HARD[::3]
    with np.errstate(all="ignore"):
        matrix = ImportanceMatrix.for_rows(columns, rows, module.DTYPE)
        portable = KernelQuant(module, with_llvm=False)
        ours = portable.quantize_blocks(rows.reshape(-1, module.DTYPE.block_size), matrix)
    assert_same_blocks(ours.reshape(len(rows), -1), ggml.quantize(rows, module.DTYPE, columns), rows_per_case=8)


@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_importance_follows_the_column_in_a_tile_that_is_not_full(dtype: DType) -> None:
    weights, columns = ALL_HARD[:21].reshape(7, -1), np.tile(IMPORTANCE["plain"], 3)
    columns[700:] *= np.float32(3)
    ours = quants.encode(weights, dtype, tensor="", first_index=0, importance=columns)
    np.testing.assert_array_equal(ours, ggml.quantize(weights, dtype, columns))
    if dtype not in WITHOUT_SEARCH:
        assert (ours != encode(weights, dtype)).any()


@pytest.mark.parametrize("n_rows", [1, 2, 3, 65])
@pytest.mark.parametrize("dtype", sorted(WEIGHED_BY_ROW, key=str), ids=name)
def test_importance_takes_the_spread_of_the_row_however_many_there_are(dtype: DType, n_rows: int) -> None:
    weights = np.resize(HARD["normal"] * np.linspace(0.1, 3, 24, dtype=np.float32)[:, None], (n_rows, 576))
    columns = np.resize(IMPORTANCE["plain"], 576)
    ours = quants.encode(weights, dtype, tensor="", first_index=0, importance=columns)
    np.testing.assert_array_equal(ours, ggml.quantize(weights, dtype, columns))


def test_importance_of_another_number_of_columns_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="columns for rows of 512"):
        quants.encode(HARD["normal"], dtypes.Q4_K, tensor="", first_index=0, importance=IMPORTANCE["plain"][:256])


@pytest.mark.parametrize("dtype", PLAIN, ids=name)
@pytest.mark.parametrize("case", HARD)
def test_hard_weights_become_ggmls_plain_bytes(dtype: DType, case: str) -> None:
    limit = quants.CODECS[dtype].LIMIT
    weights = HARD[case] if limit is None else np.clip(HARD[case], -0.99 * limit, 0.99 * limit, dtype=np.float32)
    np.testing.assert_array_equal(encode(weights, dtype), ggml.quantize(weights, dtype))


@pytest.mark.parametrize("dtype", BLOCK, ids=name)
@settings(deadline=None)
@given(
    weights=hnp.arrays(np.float32, (2, 256), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
def test_any_finite_weights_become_ggmls_bytes(dtype: DType, weights: Floats) -> None:
    np.testing.assert_array_equal(encode(weights, dtype), ggml.quantize(weights, dtype))


@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_any_block_decodes_as_in_ggml_and_gguf(dtype: DType) -> None:
    data = np.random.default_rng(4).integers(0, 256, (64, 4 * dtype.block_bytes), dtype=np.uint8)
    ours = quants.decode(data, dtype)
    numbers = ~np.isnan(ours)  # of a NaN only that it is one, its payload is the machine's
    with np.errstate(all="ignore"):
        judges = [ggml.dequantize(data, dtype)]
        if dtype not in (dtypes.Q1_0, dtypes.Q2_0):  # which gguf-py does not unpack yet
            judges.append(gguf.dequantize(data, gguf.GGMLQuantizationType(dtype.ggml_id)))
    for theirs in judges:
        np.testing.assert_array_equal(np.isnan(theirs), ~numbers)
        assert_same_bits(ours[numbers], theirs[numbers])


@pytest.mark.parametrize("dtype", [dtypes.F16, dtypes.BF16], ids=name)
def test_every_half_decodes_as_in_gguf_and_comes_back(dtype: DType) -> None:
    data = np.arange(2**16, dtype="<u2").view(np.uint8).reshape(1, -1)
    ours, theirs = quants.decode(data, dtype), gguf.dequantize(data, gguf.GGMLQuantizationType(dtype.ggml_id))
    numbers = ~np.isnan(ours)  # of a NaN only that it is one, its payload is the machine's
    np.testing.assert_array_equal(np.isnan(theirs), ~numbers)
    assert_same_bits(ours[numbers], theirs[numbers])
    finite = np.isfinite(ours)
    np.testing.assert_array_equal(encode(ours[finite][None, :], dtype).view("<u2")[0], data.view("<u2")[finite])


@pytest.mark.parametrize("module", [f16, bf16], ids=lambda module: module.DTYPE.name)
def test_numpy_carries_halves_out_with_the_same_bytes(module: KernelModule) -> None:
    fast, portable = KernelQuant(module), KernelQuant(module, with_llvm=False)
    halves = np.arange(2**16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    assert_same_bits(portable.dequantize_blocks(halves), fast.dequantize_blocks(halves))
    weights = ALL_HARD[np.abs(ALL_HARD) < 6e4].reshape(-1, 1)
    np.testing.assert_array_equal(portable.quantize_blocks(weights), fast.quantize_blocks(weights))


@pytest.fixture(scope="module")
def real_tensors(smollm2_gguf: Path) -> list[tuple[Floats, Floats]]:
    """The first layer of SmolLM2, decoded by us and by gguf-py."""
    tensors = [tensor for tensor in gguf.GGUFReader(smollm2_gguf).tensors if tensor.name.startswith("blk.0.")]
    return [
        (
            quants.decode(np.atleast_2d(tensor.data).view(np.uint8), dtypes.BY_GGML_ID[tensor.tensor_type]),
            np.atleast_2d(gguf.dequantize(tensor.data, tensor.tensor_type)),
        )
        for tensor in tensors
    ]


def test_real_weights_decode_as_in_gguf(real_tensors: list[tuple[Floats, Floats]]) -> None:
    assert len(real_tensors) == 9
    for ours, theirs in real_tensors:
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("dtype", [*PLAIN, dtypes.Q8_0, dtypes.Q4_0, dtypes.Q4_1, dtypes.Q5_0, dtypes.Q5_1], ids=name)
def test_real_weights_become_ggufs_bytes(dtype: DType, real_tensors: list[tuple[Floats, Floats]]) -> None:
    for weights, _ in real_tensors:
        theirs = gguf.quantize(weights, gguf.GGMLQuantizationType(dtype.ggml_id)).view(np.uint8)
        np.testing.assert_array_equal(encode(weights, dtype), theirs)


@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_real_weights_full_of_ties_become_ggmls_bytes(dtype: DType, real_tensors: list[tuple[Floats, Floats]]) -> None:
    weights = np.concatenate([weights.ravel() for weights, _ in real_tensors[1:4]])
    weights = weights[: 1000 * 256].reshape(-1, 256)
    np.testing.assert_array_equal(encode(weights, dtype), ggml.quantize(weights, dtype))


@pytest.mark.parametrize("n_blocks", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("dtype", BLOCK, ids=name)
def test_a_tile_that_is_not_full_changes_nothing(dtype: DType, n_blocks: int) -> None:
    weights = HARD["normal"].reshape(-1, dtype.block_size)[:n_blocks]
    blocks = encode(weights, dtype)
    np.testing.assert_array_equal(blocks, ggml.quantize(weights, dtype))
    assert_same_bits(quants.decode(blocks, dtype), ggml.dequantize(blocks, dtype))


# The rows


@pytest.mark.parametrize("dtype", [*PLAIN, *BLOCK], ids=name)
def test_rows_do_not_depend_on_how_a_tensor_is_cut(dtype: DType) -> None:
    weights = HARD["a scale for each 32"]
    whole = encode(weights, dtype)
    by_row = [encode(weights[i : i + 1], dtype) for i in range(len(weights))]
    np.testing.assert_array_equal(np.concatenate(by_row), whole)
    np.testing.assert_array_equal(quants.decode(whole, dtype)[3:5], quants.decode(whole[3:5], dtype))


@pytest.mark.parametrize("dtype", [*PLAIN, *BLOCK], ids=name)
def test_no_rows_are_no_bytes(dtype: DType) -> None:
    nothing = encode(np.empty((0, 512), np.float32), dtype)
    assert nothing.shape == (0, dtype.row_bytes(512))
    assert quants.decode(nothing, dtype).shape == (0, 512)


@pytest.mark.parametrize("dtype", [*PLAIN, *BLOCK], ids=name)
def test_rows_out_of_a_larger_array_are_read_where_they_lie(dtype: DType) -> None:
    weights = HARD["normal"]
    np.testing.assert_array_equal(encode(weights[:, 256:], dtype), encode(weights[:, 256:].copy(), dtype))


@pytest.mark.parametrize("dtype", [*PLAIN, *BLOCK], ids=name)
def test_buffers_take_the_results_if_they_have_room(dtype: DType) -> None:
    weights = HARD["normal"]
    bytes_, numbers = np.zeros(weights.nbytes + 7, np.uint8), np.zeros((25, 512), np.float32)
    blocks = quants.encode(weights, dtype, tensor="w", first_index=0, out=bytes_)
    assert blocks.shape == (24, dtype.row_bytes(512)) and np.shares_memory(blocks, bytes_)
    np.testing.assert_array_equal(blocks, encode(weights, dtype))
    decoded = quants.decode(blocks, dtype, out=numbers)
    assert np.shares_memory(decoded, bytes_ if dtype == dtypes.F32 else numbers)
    np.testing.assert_array_equal(decoded, quants.decode(blocks, dtype))
    assert not bytes_[blocks.nbytes :].any() and not numbers[24:].any()


@pytest.mark.parametrize("buffer", [np.zeros(100, np.uint8), np.zeros((60, 20), np.uint8)[:, :18]])
def test_a_buffer_without_room_or_with_gaps_is_a_wrong_call(buffer: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="a buffer of"):
        quants.encode(HARD["normal"][:2], dtypes.Q4_0, tensor="w", first_index=0, out=buffer)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [dtype for dtype in [*PLAIN, *BLOCK] if dtype != dtypes.F32], ids=name)
def test_a_weight_that_is_no_number_is_refused_with_its_place(dtype: DType, value: float) -> None:
    weights = np.ones((2, 256), np.float32)
    weights[1, 3] = value
    weights[1, 9] = value
    with pytest.raises(UnrepresentableError) as caught:
        quants.encode(weights, dtype, tensor="output.weight", first_index=1000)
    assert (caught.value.tensor, caught.value.index, caught.value.dtype) == ("output.weight", 1259, dtype.name)
    np.testing.assert_equal(caught.value.value, value)


@pytest.mark.parametrize(
    ("dtype", "held", "refused"),
    [(dtypes.F16, 65519.996, 65520.0), (dtypes.BF16, 3.3961773e38, float.fromhex("0x1.ffp127"))],
    ids=str,
)
def test_a_weight_that_would_become_infinite_is_refused(dtype: DType, held: float, refused: float) -> None:
    assert np.isfinite(quants.decode(encode(np.array([[-held]], np.float32), dtype), dtype)).all()
    with pytest.raises(UnrepresentableError) as caught:
        encode(np.array([[0.0, -refused]], np.float32), dtype)
    assert (caught.value.index, caught.value.value) == (1, -refused)


def test_a_row_that_is_not_whole_blocks_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="Q4_0 stores blocks of 32, a row of 33 does not divide"):
        encode(np.zeros((1, 33), np.float32), dtypes.Q4_0)


def test_the_table_knows_what_it_can_do() -> None:
    assert quants.can_decode(dtypes.BF16)
    assert quants.can_encode(dtypes.Q4_1)
    assert not quants.can_decode(dtypes.I32)
    assert not quants.can_encode(dtypes.I32)
    assert quants.needs_importance(dtypes.IQ1_S)
    assert not quants.needs_importance(dtypes.IQ1_M)
