"""GGUF files of any version and byte order, put together by hand: `gguf_bytes` for the forms that it does not write.

A `Form` packs one after the other what a file consists of, and tells lies where a test asks it to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.fakes.gguf_bytes import ARRAY, BOOL, F32, FLOAT32, INT32, LLAMA_SHAPES, Q8_0, STRING, TOKENS, UINT16, UINT32


@dataclass(frozen=True)
class Form:
    """version: 1 counts in u32, 2 and 3 in u64. order: "<" little-endian, ">" big-endian."""

    version: int
    order: str

    @property
    def count_bytes(self) -> int:
        return 4 if self.version == 1 else 8

    def u16(self, number: int) -> bytes:
        return struct.pack(f"{self.order}H", number)

    def u32(self, number: int) -> bytes:
        return struct.pack(f"{self.order}I", number)

    def u64(self, number: int) -> bytes:
        return struct.pack(f"{self.order}Q", number)

    def count(self, number: int) -> bytes:
        """A count, a length, a dimension; what does not fit is cut, as a lie would be."""
        return number.to_bytes(8, "little")[: self.count_bytes][:: 1 if self.order == "<" else -1]

    def text(self, value: str | bytes, length: int | None = None) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        return self.count(len(data) if length is None else length) + data

    def key(self, name: str | bytes, kind: int, value: bytes) -> bytes:
        return self.text(name) + self.u32(kind) + value

    def string(self, name: str, value: str) -> bytes:
        return self.key(name, STRING, self.text(value))

    def uint32(self, name: str, value: int) -> bytes:
        return self.key(name, UINT32, self.u32(value))

    def uint16(self, name: str, value: int) -> bytes:
        return self.key(name, UINT16, self.u16(value))

    def float32(self, name: str, value: float) -> bytes:
        return self.key(name, FLOAT32, struct.pack(f"{self.order}f", value))

    def array(self, name: str, kind: int, count: int, elements: bytes) -> bytes:
        return self.key(name, ARRAY, self.u32(kind) + self.count(count) + elements)

    def strings(self, name: str, values: Iterable[str]) -> bytes:
        texts = [self.text(value) for value in values]
        return self.array(name, STRING, len(texts), b"".join(texts))

    def int32s(self, name: str, values: Sequence[int]) -> bytes:
        return self.array(name, INT32, len(values), struct.pack(f"{self.order}{len(values)}i", *values))

    def tensor(self, name: str, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
        """dimensions: columns first, as GGUF has them."""
        sizes = b"".join(map(self.count, dimensions))
        return self.text(name) + self.u32(len(dimensions)) + sizes + self.u32(kind) + self.u64(offset)

    def floats(self, values: Iterable[float]) -> bytes:
        numbers = list(values)
        return struct.pack(f"{self.order}{len(numbers)}f", *numbers)

    def header(
        self, keys: Sequence[bytes], tensors: Sequence[bytes], *, n_kv: int | None = None, n_tensors: int | None = None
    ) -> bytes:
        """Magic to the last tensor. n_kv, n_tensors: what it says, where that is not the truth."""
        counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_kv is None else n_kv)
        fixed = b"GGUF" + self.u32(self.version) + b"".join(map(self.count, counts))
        return fixed + b"".join(keys) + b"".join(tensors)

    def file(
        self,
        keys: Sequence[bytes],
        tensors: Sequence[bytes],
        data: bytes,
        *,
        n_kv: int | None = None,
        n_tensors: int | None = None,
    ) -> bytes:
        header = self.header(keys, tensors, n_kv=n_kv, n_tensors=n_tensors)
        return header + b"\0" * (-len(header) % 32) + data

    # What follows are whole files: those of `gguf_bytes`, in this form.

    def small_keys(self) -> list[bytes]:
        return [
            self.string("general.architecture", "small"),
            self.uint32("small.block_count", 2),
            self.float32("small.epsilon", 0.5),
            self.key("small.flag", BOOL, b"\1"),
            self.strings("small.words", ["one", "", "drei ✓"]),
            self.int32s("small.numbers", [1, -2]),
        ]

    def small_tensors(self) -> list[bytes]:
        return [self.tensor("first.weight", (4, 2), F32, 0), self.tensor("second.weight", (32,), Q8_0, 32)]

    def small_data(self) -> bytes:
        """Eight numbers; a block whose scale is the half 0x0100 and whose quants are 2 to 33."""
        return self.floats(range(8)) + self.u16(0x0100) + bytes(range(2, 34)) + bytes(30)

    def small(self) -> bytes:
        return self.file(self.small_keys(), self.small_tensors(), self.small_data())

    def llama_keys(self) -> list[bytes]:
        return [
            self.string("general.architecture", "llama"),
            self.string("general.name", "Tiny"),
            self.uint32("llama.block_count", 1),
            self.uint32("llama.context_length", 64),
            self.uint32("llama.embedding_length", 32),
            self.uint32("llama.feed_forward_length", 64),
            self.uint32("llama.attention.head_count", 2),
            self.uint32("llama.attention.head_count_kv", 1),
            self.float32("llama.attention.layer_norm_rms_epsilon", 1e-5),
            self.string("tokenizer.ggml.model", "gpt2"),
            self.string("tokenizer.ggml.pre", "smollm"),
            self.strings("tokenizer.ggml.tokens", TOKENS),
            self.int32s("tokenizer.ggml.token_type", [3, 1, 1, 1, 1, 1, 1, 3]),
            self.strings("tokenizer.ggml.merges", ["a b", "Ġ a"]),
            self.uint32("tokenizer.ggml.eos_token_id", 7),
        ]

    def llama(
        self,
        keys: Sequence[bytes] | None = None,
        shapes: dict[str, tuple[int, ...]] | None = None,
        *,
        first: int = 0,
    ) -> bytes:
        """The llama of `gguf_bytes`, or a part of its tensors; weight n of the file is the number first + n."""
        entries, n_weights = [], 0
        for name, shape in (LLAMA_SHAPES if shapes is None else shapes).items():
            entries.append(self.tensor(name, shape[::-1], F32, 4 * n_weights))
            size = 1
            for dimension in shape:
                size *= dimension
            n_weights += size
        data = self.floats(range(first, first + n_weights))
        return self.file(self.llama_keys() if keys is None else keys, entries, data)

    def split_keys(self, number: int, count: int, n_tensors: int) -> list[bytes]:
        """As llama-gguf-split leaves them. number: from 0."""
        total = self.key("split.tensors.count", INT32, struct.pack(f"{self.order}i", n_tensors))
        return [self.uint16("split.no", number), total, self.uint16("split.count", count)]

    def shards(self, sizes: Sequence[int] = (5, 4, 3)) -> list[bytes]:
        """That llama in files of so many tensors each."""
        shapes, files, done, n_weights = list(LLAMA_SHAPES.items()), [], 0, 0
        for number, size in enumerate(sizes):
            keys = (self.llama_keys() if number == 0 else []) + self.split_keys(number, len(sizes), len(shapes))
            mine = dict(shapes[done : done + size])
            files.append(self.llama(keys, mine, first=n_weights))
            done += size
            for shape in mine.values():
                n_weights += shape[0] * (shape[1] if len(shape) > 1 else 1)
        return files


V1, V1_BIG, V2, V2_BIG, V3, V3_BIG = (Form(version, order) for version in (1, 2, 3) for order in "<>")
FORMS = (V1, V1_BIG, V2, V2_BIG, V3, V3_BIG)


def name_of(form: Form) -> str:
    return f"v{form.version} {'little' if form.order == '<' else 'big'}"
