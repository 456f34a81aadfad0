"""Files of llama.cpp from before GGUF: the quantizers of those days, the containers, and a small llama in any of them.

Formulas: `quantize_row_*_reference` and `dequantize_row_*` in ggml.c of March to May 2023, said again in numpy, with a
block in each row. koboldcpp still carries them (otherarch/ggml_v1.c, ggml_v2.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class OldType:
    """number: in the files. quantize: weights, shape (n, block), to blocks, shape (n, bytes); dequantize: back."""

    number: int
    block: int
    quantize: Callable[[Floats], Bytes]
    dequantize: Callable[[Bytes], Floats]

    def rows(self, weights: Floats) -> bytes:
        return self.quantize(np.ascontiguousarray(weights, np.float32).reshape(-1, self.block)).tobytes()

    def read(self, data: bytes, shape: tuple[int, ...]) -> Floats:
        n_blocks = int(np.prod(shape)) // self.block
        return self.dequantize(np.frombuffer(data, np.uint8).reshape(n_blocks, -1)).reshape(shape)


def _column(values: Floats, kind: str) -> Bytes:
    """A number for each block, as the first bytes of the block have it."""
    return np.ascontiguousarray(values.astype(kind)[:, None]).view(np.uint8)


def _number(blocks: Bytes, at: int, kind: str) -> Floats:
    width = np.dtype(kind).itemsize
    return np.ascontiguousarray(blocks[:, at : at + width]).view(kind).astype(np.float32)


def _in_order(quants: Bytes) -> Bytes:
    return np.bitwise_or(quants[:, 0::2], quants[:, 1::2] << 4, dtype=np.uint8)


def _out_of_order(packed: Bytes) -> npt.NDArray[np.int32]:
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1).astype(np.int32)


def _in_halves(quants: Bytes) -> Bytes:
    half = quants.shape[1] // 2
    return np.bitwise_or(quants[:, :half], quants[:, half:] << 4, dtype=np.uint8)


def _out_of_halves(packed: Bytes) -> npt.NDArray[np.int32]:
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int32)


_ORDERS = {"in order": (_in_order, _out_of_order), "in halves": (_in_halves, _out_of_halves)}


def _reciprocal(d: Floats) -> Floats:
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _signed(x: Floats, levels: int) -> tuple[Floats, Bytes]:
    """Scale, with the sign that gives the weight farthest from zero quant 0, and quants of 0 to 2 * levels - 1."""
    farthest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    d = (farthest / np.float32(-levels)).astype(np.float32)
    steps = x * _reciprocal(d)[:, None] + np.float32(levels + 0.5)
    return d, np.minimum(steps.astype(np.int32), 2 * levels - 1).astype(np.uint8)


def _above_minimum(x: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    low = x.min(axis=1)
    d = ((x.max(axis=1) - low) / np.float32(top)).astype(np.float32)
    return d, low, ((x - low[:, None]) * _reciprocal(d)[:, None] + np.float32(0.5)).astype(np.uint8)


def four_bits(number: int, block: int, scale: str, order: str, *, minimum: bool) -> OldType:
    pack, unpack = _ORDERS[order]
    width = np.dtype(scale).itemsize

    def quantize(x: Floats) -> Bytes:
        if minimum:
            d, low, quants = _above_minimum(x, 15)
            return np.concatenate([_column(d, scale), _column(low, scale), pack(quants)], axis=1)
        d, quants = _signed(x, 8)
        return np.concatenate([_column(d, scale), pack(quants)], axis=1)

    def dequantize(blocks: Bytes) -> Floats:
        d = _number(blocks, 0, scale)
        if minimum:
            quants = unpack(blocks[:, 2 * width :]).astype(np.float32)
            return quants * d + _number(blocks, width, scale)
        return (unpack(blocks[:, width:]) - 8).astype(np.float32) * d

    return OldType(number, block, quantize, dequantize)


def five_bits(number: int, order: str, *, minimum: bool) -> OldType:
    pack, unpack = _ORDERS[order]

    def quantize(x: Floats) -> Bytes:
        if minimum:
            d, low, quants = _above_minimum(x, 31)
            head = [_column(d, "<f2"), _column(low, "<f2")]
        else:
            d, quants = _signed(x, 16)
            head = [_column(d, "<f2")]
        fifth = np.packbits(quants >> 4, axis=1, bitorder="little")
        return np.concatenate([*head, fifth, pack(np.bitwise_and(quants, 15, dtype=np.uint8))], axis=1)

    def dequantize(blocks: Bytes) -> Floats:
        at = 4 if minimum else 2
        fifth = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little").astype(np.int32)
        quants = unpack(blocks[:, at + 4 :]) | fifth << 4
        d = _number(blocks, 0, "<f2")
        if minimum:
            return quants.astype(np.float32) * d + _number(blocks, 2, "<f2")
        return (quants - 16).astype(np.float32) * d

    return OldType(number, 32, quantize, dequantize)


def eight_bits() -> OldType:
    def quantize(x: Floats) -> Bytes:
        d = (np.abs(x).max(axis=1) / np.float32(127)).astype(np.float32)
        steps = x * _reciprocal(d)[:, None]
        quants = np.trunc(steps + np.copysign(np.float32(0.5), steps)).astype(np.int8)
        return np.concatenate([_column(d, "<f4"), quants.view(np.uint8)], axis=1)

    def dequantize(blocks: Bytes) -> Floats:
        quants = np.ascontiguousarray(blocks[:, 4:]).view(np.int8)
        return quants.astype(np.float32) * _number(blocks, 0, "<f4")

    return OldType(8, 32, quantize, dequantize)


def plain(number: int, kind: str) -> OldType:
    def quantize(x: Floats) -> Bytes:
        return x.astype(kind).view(np.uint8)

    def dequantize(blocks: Bytes) -> Floats:
        return np.ascontiguousarray(blocks).view(kind).astype(np.float32)

    return OldType(number, 1, quantize, dequantize)


F32, F16 = plain(0, "<f4"), plain(1, "<f2")
V1: dict[str, OldType] = {
    "Q4_0_V1": four_bits(2, 32, "<f4", "in order", minimum=False),
    "Q4_1_V1": four_bits(3, 32, "<f4", "in order", minimum=True),
    "Q4_2": four_bits(4, 16, "<f2", "in order", minimum=False),
    "Q4_3": four_bits(5, 16, "<f2", "in order", minimum=True),
    "Q5_0": five_bits(6, "in order", minimum=False),
    "Q5_1": five_bits(7, "in order", minimum=True),
    "Q8_0_V2": eight_bits(),
}
V2: dict[str, OldType] = {
    "Q4_0_V2": four_bits(2, 32, "<f4", "in halves", minimum=False),
    "Q4_1_V2": four_bits(3, 32, "<f4", "in halves", minimum=True),
    "Q5_0": five_bits(6, "in halves", minimum=False),
    "Q5_1": five_bits(7, "in halves", minimum=True),
    "Q8_0_V2": eight_bits(),
}
# How the first bytes of each container are written, whether tokens have scores, and to what data are aligned.
CONTAINERS: dict[str, tuple[bytes, bool, int]] = {
    "GGML": (b"lmgg", False, 1),
    "GGMF v1": (b"fmgg" + struct.pack("<I", 1), True, 1),
    "GGJT v1": (b"tjgg" + struct.pack("<I", 1), True, 32),
    "GGJT v2": (b"tjgg" + struct.pack("<I", 2), True, 32),
    "GGJT v3": (b"tjgg" + struct.pack("<I", 3), True, 32),
}

PIECES = ("▁h", "el", "lo", "▁hel", "▁hello", "▁", "h", "e", "l", "o", "ü", "▁世", "▁a")
# As llama.cpp's converter wrote them: bytes as they are, pieces with spaces.
TOKENS: tuple[bytes, ...] = (
    " ⁇ ".encode(), b"", b"",
    *(bytes([byte]) for byte in range(256)),
    *(piece.replace("▁", " ").encode() for piece in PIECES),
)  # fmt: skip
SCORES: tuple[float, ...] = (*[0.0] * 259, *(-float(n) for n in range(len(PIECES))))


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. shape is row-major."""

    name: str
    number: int
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Old:
    """What a file is made of; `replace` any part of it."""

    container: str = "GGJT v3"
    tokens: tuple[bytes, ...] = TOKENS
    scores: tuple[float, ...] = SCORES
    numbers: Mapping[str, int] = field(default_factory=dict)
    tensors: tuple[Stored, ...] = ()

    def build(self) -> bytes:
        head, has_scores, alignment = CONTAINERS[self.container]
        out = bytearray(head + struct.pack("<7I", *self.numbers.values()))
        for token, score in zip(self.tokens, self.scores, strict=True):
            out += struct.pack("<I", len(token)) + token + (struct.pack("<f", score) if has_scores else b"")
        for each in self.tensors:
            out += struct.pack("<III", len(each.shape), len(each.name), each.number)
            out += struct.pack(f"<{len(each.shape)}I", *each.shape[::-1]) + each.name.encode()
            out += bytes(-len(out) % alignment) + each.data
        return bytes(out)


@dataclass(frozen=True)
class Shape:
    """Of a small llama of two layers."""

    dim: int = 32
    n_heads: int = 4
    n_kv_heads: int = 4
    n_mult: int = 32
    n_layers: int = 2

    @property
    def hidden_dim(self) -> int:
        return -(-(8 * self.dim // 3) // self.n_mult) * self.n_mult

    def numbers(self, ftype: int, n_vocab: int = len(TOKENS)) -> dict[str, int]:
        return {
            "n_vocab": n_vocab, "n_embd": self.dim, "n_mult": self.n_mult, "n_head": self.n_heads,
            "n_layer": self.n_layers, "n_rot": self.dim // self.n_heads, "ftype": ftype,
        }  # fmt: skip

    def weights(self, seed: int = 0, n_vocab: int = len(TOKENS)) -> dict[str, Floats]:
        """By Meta's names, with Meta's order of rows."""
        random = np.random.default_rng(seed)

        def matrix(n_rows: int, n_columns: int) -> Floats:
            return (random.standard_normal((n_rows, n_columns)) * n_columns**-0.5).astype(np.float32)

        def norm() -> Floats:
            return (1 + 0.1 * random.standard_normal(self.dim)).astype(np.float32)

        n_keys = self.n_kv_heads * self.dim // self.n_heads
        result = {"tok_embeddings.weight": matrix(n_vocab, self.dim)}
        for layer in range(self.n_layers):
            prefix = f"layers.{layer}."
            result |= {
                prefix + "attention.wq.weight": matrix(self.dim, self.dim),
                prefix + "attention.wk.weight": matrix(n_keys, self.dim),
                prefix + "attention.wv.weight": matrix(n_keys, self.dim),
                prefix + "attention.wo.weight": matrix(self.dim, self.dim),
                prefix + "feed_forward.w1.weight": matrix(self.hidden_dim, self.dim),
                prefix + "feed_forward.w2.weight": matrix(self.dim, self.hidden_dim),
                prefix + "feed_forward.w3.weight": matrix(self.hidden_dim, self.dim),
                prefix + "attention_norm.weight": norm(),
                prefix + "ffn_norm.weight": norm(),
            }
        return result | {"norm.weight": norm(), "output.weight": matrix(n_vocab, self.dim)}


def stored(weights: Mapping[str, Floats], kind: OldType) -> tuple[Stored, ...]:
    """Matrices in the one type, norms in F32, as the quantizers left them."""
    return tuple(
        Stored(name, each.number, array.shape, each.rows(array))
        for name, array in weights.items()
        for each in (kind if array.ndim == 2 else F32,)
    )


def model(container: str, kind: OldType, shape: Shape | None = None, *, seed: int = 0) -> Old:
    """A small llama in one file. Its container and type must be of the same time."""
    shape = shape or Shape()
    return Old(container, numbers=shape.numbers(kind.number), tensors=stored(shape.weights(seed), kind))


def write_parts(path: Path, container: str, kind: OldType, n_parts: int, shape: Shape | None = None) -> list[Path]:
    """The same divided as Meta divided it: path, path.1, …"""
    shape = shape or Shape()
    whole = Old(container, numbers=shape.numbers(kind.number))
    by_columns = ("tok_embeddings.weight", ".wo.weight", ".w2.weight")
    paths = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, n_parts))]
    for number, part in enumerate(paths):
        weights = {
            name: array
            if array.ndim == 1
            else np.split(array, n_parts, axis=1 if name.endswith(by_columns) else 0)[number]
            for name, array in shape.weights().items()
        }
        part.write_bytes(replace(whole, tensors=stored(weights, kind)).build())
    return paths


def names(tensors: Sequence[Stored]) -> list[str]:
    return [each.name for each in tensors]
