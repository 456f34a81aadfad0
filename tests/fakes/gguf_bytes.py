"""GGUF files put together by hand, byte by byte, and by none of the code under test.

A `Gguf` is a valid file until a test replaces a part of it: a count that lies, a key twice, a tail.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string; length: what it says of itself, where that is not the truth."""
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data) if length is None else length) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def string(name: str | bytes, value: str | bytes) -> bytes:
    return key(name, STRING, text(value))


def uint32(name: str, value: int) -> bytes:
    return key(name, UINT32, u32(value))


def float32(name: str, value: float) -> bytes:
    return key(name, FLOAT32, struct.pack("<f", value))


def array(name: str, kind: int, count: int, elements: bytes) -> bytes:
    return key(name, ARRAY, u32(kind) + u64(count) + elements)


def strings(name: str, values: Iterable[str]) -> bytes:
    texts = [text(value) for value in values]
    return array(name, STRING, len(texts), b"".join(texts))


def int32s(name: str, values: Iterable[int]) -> bytes:
    numbers = list(values)
    return array(name, INT32, len(numbers), struct.pack(f"<{len(numbers)}i", *numbers))


def tensor(name: str | bytes, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
    """An entry of the list; dimensions: columns first, as GGUF has them."""
    return (
        text(name) + u32(len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions) + u32(kind) + u64(offset)
    )


@dataclass(frozen=True)
class Gguf:
    """The parts of a file. n_tensors, n_kv: what the header says, where that is not the truth."""

    keys: tuple[bytes, ...] = ()
    tensors: tuple[bytes, ...] = ()
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_kv: int | None = None
    alignment: int = 32
    tail: bytes = field(default=b"", repr=False)

    @property
    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_kv = len(self.keys) if self.n_kv is None else self.n_kv
        fixed = self.magic + u32(self.version) + u64(n_tensors) + u64(n_kv)
        return fixed + b"".join(self.keys) + b"".join(self.tensors)

    def build(self) -> bytes:
        header = self.header
        return header + b"\0" * (-len(header) % self.alignment) + self.data + self.tail


SMALL = Gguf(
    keys=(
        string("general.architecture", "small"),
        uint32("small.block_count", 2),
        float32("small.epsilon", 0.5),
        key("small.flag", BOOL, b"\1"),
        strings("small.words", ["one", "", "drei ✓"]),
        int32s("small.numbers", [1, -2]),
    ),
    tensors=(tensor("first.weight", (4, 2), F32, 0), tensor("second.weight", (32,), Q8_0, 32)),
    data=struct.pack("<8f", *range(8)) + bytes(range(34)) + bytes(30),
)

TOKENS = ("<s>", "a", "b", "c", "ab", "Ġ", "Ġa", "</s>")


def llama_keys(**replaced: bytes) -> tuple[bytes, ...]:
    """The keys of a llama of one layer: dim 32, 2 heads, 1 kv head, hidden 64, 8 tokens. replaced: by last word."""
    keys = {
        "architecture": string("general.architecture", "llama"),
        "type": string("general.type", "model"),
        "name": string("general.name", "Tiny"),
        "license": string("general.license", "apache-2.0"),
        "languages": strings("general.languages", ["en", "de"]),
        "block_count": uint32("llama.block_count", 1),
        "context_length": uint32("llama.context_length", 64),
        "embedding_length": uint32("llama.embedding_length", 32),
        "feed_forward_length": uint32("llama.feed_forward_length", 64),
        "head_count": uint32("llama.attention.head_count", 2),
        "head_count_kv": uint32("llama.attention.head_count_kv", 1),
        "epsilon": float32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        "freq_base": float32("llama.rope.freq_base", 10000.0),
        "model": string("tokenizer.ggml.model", "gpt2"),
        "pre": string("tokenizer.ggml.pre", "smollm"),
        "tokens": strings("tokenizer.ggml.tokens", TOKENS),
        "token_type": int32s("tokenizer.ggml.token_type", [3, 1, 1, 1, 1, 1, 1, 3]),
        "merges": strings("tokenizer.ggml.merges", ["a b", "Ġ a"]),
        "eos": uint32("tokenizer.ggml.eos_token_id", 7),
    }
    return tuple((keys | replaced).values())


LLAMA_SHAPES = {
    "token_embd.weight": (8, 32),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.ffn_down.weight": (32, 64),
    "output_norm.weight": (32,),
    "output.weight": (8, 32),
}


def llama(shapes: dict[str, tuple[int, ...]] | None = None, **replaced: bytes) -> Gguf:
    """That llama with tensors of these shapes (row-major) in F32; weight n of the file is the number n."""
    entries, n_weights = [], 0
    for name, shape in (LLAMA_SHAPES if shapes is None else shapes).items():
        entries.append(tensor(name, shape[::-1], F32, 4 * n_weights))
        size = 1
        for dimension in shape:
            size *= dimension
        assert size % 8 == 0  # so that no padding is needed
        n_weights += size
    data = struct.pack(f"<{n_weights}f", *range(n_weights))
    return Gguf(llama_keys(**replaced), tuple(entries), data)
