"""How weights are stored: plain numbers, or blocks of weights that share scales.

Sizes of ggml's types: `GGML_QUANT_SIZES` in gguf-py/gguf/constants.py and the structs in ggml-common.h (llama.cpp).
Only the sizes stand here; how a block is packed and unpacked is in `converters/quants/`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One way to store weights.

    block_size: weights in a block, 1 for plain numbers. block_bytes: bytes of one block. ggml_id: its number in GGUF
    files, None where GGUF has none. safetensors: its name there, None where safetensors has none.
    """

    name: str
    block_size: int
    block_bytes: int
    ggml_id: int | None = None
    safetensors: str | None = None

    @property
    def is_plain(self) -> bool:
        return self.block_size == 1

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    def fits(self, n_columns: int) -> bool:
        """Whether a row of so many weights is a whole number of blocks."""
        return n_columns % self.block_size == 0

    def row_bytes(self, n_columns: int) -> int:
        """Bytes of one row. Raises ValueError when the row is not a whole number of blocks."""
        if not self.fits(n_columns):
            raise ValueError(f"{self.name} stores blocks of {self.block_size}, a row of {n_columns} does not divide")
        return n_columns // self.block_size * self.block_bytes

    def __str__(self) -> str:
        return self.name


def _plain(name: str, size: int, ggml_id: int | None = None, safetensors: str | None = None) -> DType:
    return DType(name, 1, size, ggml_id, safetensors)


F32 = _plain("F32", 4, 0, "F32")
F16 = _plain("F16", 2, 1, "F16")
BF16 = _plain("BF16", 2, 30, "BF16")
F64 = _plain("F64", 8, 28, "F64")
I8 = _plain("I8", 1, 24, "I8")
I16 = _plain("I16", 2, 25, "I16")
I32 = _plain("I32", 4, 26, "I32")
I64 = _plain("I64", 8, 27, "I64")
U8 = _plain("U8", 1, None, "U8")
U16 = _plain("U16", 2, None, "U16")
U32 = _plain("U32", 4, None, "U32")
U64 = _plain("U64", 8, None, "U64")
BOOL = _plain("BOOL", 1, None, "BOOL")
F8_E4M3 = _plain("F8_E4M3", 1, None, "F8_E4M3")
F8_E5M2 = _plain("F8_E5M2", 1, None, "F8_E5M2")
C64 = _plain("C64", 8, None, "C64")

Q4_0 = DType("Q4_0", 32, 2 + 16, 2)
Q4_1 = DType("Q4_1", 32, 2 + 2 + 16, 3)
Q5_0 = DType("Q5_0", 32, 2 + 4 + 16, 6)
Q5_1 = DType("Q5_1", 32, 2 + 2 + 4 + 16, 7)
Q8_0 = DType("Q8_0", 32, 2 + 32, 8)
Q2_K = DType("Q2_K", 256, 16 + 64 + 2 + 2, 10)
Q3_K = DType("Q3_K", 256, 32 + 64 + 12 + 2, 11)
Q4_K = DType("Q4_K", 256, 2 + 2 + 12 + 128, 12)
Q5_K = DType("Q5_K", 256, 2 + 2 + 12 + 32 + 128, 13)
Q6_K = DType("Q6_K", 256, 128 + 64 + 16 + 2, 14)
IQ2_XXS = DType("IQ2_XXS", 256, 2 + 64, 16)
IQ2_XS = DType("IQ2_XS", 256, 2 + 64 + 8, 17)
IQ3_XXS = DType("IQ3_XXS", 256, 2 + 64 + 32, 18)
IQ1_S = DType("IQ1_S", 256, 2 + 32 + 16, 19)
IQ4_NL = DType("IQ4_NL", 32, 2 + 16, 20)
IQ3_S = DType("IQ3_S", 256, 2 + 64 + 8 + 32 + 4, 21)
IQ2_S = DType("IQ2_S", 256, 2 + 64 + 8 + 8, 22)
IQ4_XS = DType("IQ4_XS", 256, 2 + 2 + 4 + 128, 23)
IQ1_M = DType("IQ1_M", 256, 32 + 16 + 8, 29)
TQ1_0 = DType("TQ1_0", 256, 48 + 4 + 2, 34)
TQ2_0 = DType("TQ2_0", 256, 64 + 2, 35)
MXFP4 = DType("MXFP4", 32, 1 + 16, 39)
NVFP4 = DType("NVFP4", 64, 4 + 32, 40)
Q1_0 = DType("Q1_0", 128, 2 + 16, 41)
Q2_0 = DType("Q2_0", 64, 2 + 16, 42)

# Blocks of the files before GGUF that ggml reads no more: converters/quants/withdrawn.py. _V1, _V2: as they were until
# that version of GGJT.
Q4_0_V1 = DType("Q4_0_V1", 32, 4 + 16)
Q4_1_V1 = DType("Q4_1_V1", 32, 4 + 4 + 16)
Q4_2 = DType("Q4_2", 16, 2 + 8)
Q4_3 = DType("Q4_3", 16, 2 + 2 + 8)
Q4_0_V2 = DType("Q4_0_V2", 32, 4 + 16)
Q4_1_V2 = DType("Q4_1_V2", 32, 4 + 4 + 16)
Q8_0_V2 = DType("Q8_0_V2", 32, 4 + 32)

ALL: tuple[DType, ...] = tuple(value for value in list(globals().values()) if isinstance(value, DType))
BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in ALL}
BY_GGML_ID: dict[int, DType] = {dtype.ggml_id: dtype for dtype in ALL if dtype.ggml_id is not None}
BY_SAFETENSORS: dict[str, DType] = {dtype.safetensors: dtype for dtype in ALL if dtype.safetensors is not None}

# Numbers that ggml gave out once and withdrew; a file that uses one is old, not broken.
REMOVED_GGML_IDS: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
# Numbers for ggml's own scratch types, never in a model file.
INTERNAL_GGML_IDS: dict[int, str] = {9: "Q8_1", 15: "Q8_K"}
# Types that ik_llama.cpp added to ggml's own, for itself (ggml/include/ggml.h there). _R4, _R8, _R16: rows interleaved.
IK_LLAMA_IDS: dict[int, str] = {
    97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4",
    133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K",
    141: "IQ6_K", 142: "IQ2_TN", 143: "IQ1_TN", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16",
    148: "Q8_K32", 149: "Q8_KR8", 150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT",
    155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT",
    202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8", 210: "Q2_K_R4", 211: "Q3_K_R4", 212: "Q4_K_R4", 213: "Q5_K_R4",
    214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4", 218: "IQ3_XXS_R4", 219: "IQ1_S_R4", 220: "IQ4_NL_R4",
    221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8", 229: "IQ1_M_R4", 230: "BF16_R16", 233: "Q6_0_R4",
    335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4", 339: "IQ4_K_R4", 340: "IQ5_K_R4", 344: "IQ4_KS_R4",
    352: "IQ5_KS_R4", 353: "MXFP4_R8", 397: "Q8_K_R16", 398: "Q8_KV_R8", 399: "Q8_K_R8",
}  # fmt: skip
