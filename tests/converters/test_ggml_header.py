"""The bytes of GGML, GGMF and GGJT: read as written, and refused by name where they lie."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters import dtypes
from converters.errors import MalformedError, MissingError, UnsupportedError
from converters.formats.ggml import open_checkpoint
from converters.formats.ggml_header import MOST_TENSORS, MOST_TOKENS, Header, read_header
from converters.input_file import InputFile
from tests.fakes import old_ggml
from tests.fakes.old_ggml import CONTAINERS, Old, Shape, Stored

SHAPE = Shape(dim=4, n_heads=1, n_kv_heads=1, n_mult=1, n_layers=1)
TOKENS = (b"?", b"", b"", b" h", "\u4e16".encode())
SMALL = Old(
    "GGJT v1",
    TOKENS,
    (0.0, 0.0, 0.0, -1.0, -2.0),
    SHAPE.numbers(0, len(TOKENS)),
    old_ggml.stored(SHAPE.weights(n_vocab=len(TOKENS)), old_ggml.F32),
)
GOOD = SMALL.build()


def header_of(tmp_path: Path, data: bytes) -> Header:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with InputFile(path) as file:
        return read_header(file)


def test_a_file_byte_by_byte(tmp_path: Path) -> None:
    head = b"tjgg\x02\0\0\0" + b"".join(bytes([n, 0, 0, 0]) for n in (2, 32, 16, 4, 1, 8, 2))
    tokens = b"\3\0\0\0 \xc3\xbc" + b"\0\0\x80\xbf" + b"\0\0\0\0" + b"\0\0\0\0"
    entry = b"\2\0\0\0" + b"\1\0\0\0" + b"\2\0\0\0" + b"\x20\0\0\0" + b"\3\0\0\0" + b"w"
    data = bytes(range(60))
    assert len(head + tokens + entry) == 76  # so that 20 bytes of padding follow
    file = head + tokens + entry + bytes(20) + data
    header = header_of(tmp_path, file)
    assert header.generation.name == "GGJT v2"
    assert header.numbers.__class__(2, 32, 16, 4, 1, 8, 2) == header.numbers
    assert (header.tokens, header.scores) == ((" ü".encode(), b""), (-1.0, 0.0))
    (tensor,) = header.tensors.values()
    assert (tensor.info.name, tensor.info.dtype, tensor.info.shape) == ("w", dtypes.Q4_0_V2, (3, 32))
    assert tensor.offset_in_file == 96
    path = tmp_path / "model.bin"
    with InputFile(path) as opened:
        again = read_header(opened).tensors["w"]
        assert again.read_rows(1, 3).tobytes() == data[20:]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_back_what_went_in(tmp_path: Path, container: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(replace(SMALL, container=container).build())
    with InputFile(path) as file:
        header = read_header(file)
        assert header.generation.name == container
        assert header.tokens == TOKENS
        assert header.scores == (None if container == "GGML" else SMALL.scores)
        assert list(header.tensors) == old_ggml.names(SMALL.tensors)
        for wanted in SMALL.tensors:
            tensor = header.tensors[wanted.name]
            assert tensor.info.shape == wanted.shape
            assert tensor.read_rows(0, tensor.info.n_rows).tobytes() == wanted.data
            if container.startswith("GGJT"):
                assert tensor.offset_in_file % 32 == 0


OF_GENERATIONS = [
    ("GGML", {2: "Q4_0_V1", 3: "Q4_1_V1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0_V2"}),
    ("GGJT v1", {2: "Q4_0_V1", 3: "Q4_1_V1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0_V2"}),
    ("GGJT v2", {2: "Q4_0_V2", 3: "Q4_1_V2", 4: None, 5: None, 6: "Q5_0", 7: "Q5_1", 8: "Q8_0_V2", 12: None}),
    ("GGJT v3", {2: "Q4_0", 3: "Q4_1", 4: None, 8: "Q8_0", 9: None, 10: "Q2_K", 14: "Q6_K", 15: None, 30: None}),
]


@pytest.mark.parametrize(
    ("container", "number", "expected"),
    [(container, number, name) for container, types in OF_GENERATIONS for number, name in types.items()],
)
def test_what_a_types_number_means_depends_on_the_version(
    tmp_path: Path, container: str, number: int, expected: str | None
) -> None:
    dtype = dtypes.F32 if expected is None else dtypes.BY_NAME[expected]
    tensor = Stored("w", number, (2, 256), bytes(2 * dtype.row_bytes(256)))
    data = replace(SMALL, container=container, tensors=(tensor,)).build()
    if expected is None:
        with pytest.raises(MalformedError, match=rf"w\.type at \d+: found {number}.* allowed the types of {container}"):
            header_of(tmp_path, data)
    else:
        assert header_of(tmp_path, data).tensors["w"].info.dtype.name == expected


def with_number(**numbers: int) -> bytes:
    return replace(SMALL, numbers=dict(SMALL.numbers) | numbers).build()


def with_first(**changes: object) -> bytes:
    return replace(SMALL, tensors=(replace(SMALL.tensors[0], **changes), *SMALL.tensors[1:])).build()  # type: ignore[arg-type]


def with_bytes(at: int, data: bytes) -> bytes:
    return GOOD[:at] + data + GOOD[at + len(data) :]


VOCABULARY = 8 + 28
ENTRY = VOCABULARY + sum(8 + len(token) for token in TOKENS)
BAD = [
    ("an empty file", b"", "header"),
    ("three bytes", b"tjg", "header"),
    ("a magic alone", b"tjgg", "version"),
    ("another magic", b"GGUF" + GOOD[4:], "header"),
    ("version 0", with_bytes(4, bytes(4)), "version"),
    ("version 4", with_bytes(4, b"\4"), "version"),
    ("version 2^32-1", with_bytes(4, b"\xff" * 4), "version"),
    ("GGMF v2", b"fmgg\2\0\0\0" + GOOD[8:], "version"),
    ("an adapter", b"algg\1\0\0\0" + GOOD[8:], "header"),
    ("a session", b"nsgg\1\0\0\0" + GOOD[8:], "header"),
    ("turned round", b"ggjt" + GOOD[4:], "header"),
    ("no tokens", with_number(n_vocab=0), "n_vocab"),
    ("2^32-1 tokens", with_number(n_vocab=2**32 - 1), "n_vocab"),
    ("as many tokens as bytes are left", with_number(n_vocab=len(GOOD)), "n_vocab"),
    ("one token more", with_number(n_vocab=6), "tensor[0].n_dims"),
    ("one token fewer", with_number(n_vocab=4), "tensor[0].n_dims"),
    ("n_embd 0", with_number(n_embd=0), "n_embd"),
    ("n_embd 2^31", with_number(n_embd=2**31), "n_embd"),
    ("n_mult 0", with_number(n_mult=0), "n_mult"),
    ("n_head 0", with_number(n_head=0), "n_head"),
    ("n_layer 0", with_number(n_layer=0), "n_layer"),
    ("n_layer 513", with_number(n_layer=513), "n_layer"),
    ("n_rot 0", with_number(n_rot=0), "n_rot"),
    ("a token of 2^32-1 bytes", with_bytes(VOCABULARY, b"\xff" * 4), "vocabulary[0].length"),
    ("a token of 4096 bytes", with_bytes(VOCABULARY, struct.pack("<I", 4096)), "vocabulary[0].length"),
    ("a token past the end", with_bytes(VOCABULARY, struct.pack("<I", 4095)), "vocabulary[0]"),
    ("no dimensions", with_bytes(ENTRY, bytes(4)), "tensor[0].n_dims"),
    ("three dimensions", with_bytes(ENTRY, b"\3"), "tensor[0].n_dims"),
    ("2^32-1 dimensions", with_bytes(ENTRY, b"\xff" * 4), "tensor[0].n_dims"),
    ("no name", with_bytes(ENTRY + 4, bytes(4)), "tensor[0].name.length"),
    ("a name of 64 bytes", with_bytes(ENTRY + 4, b"\x40"), "tensor[0].name.length"),
    ("a name that is no ASCII", with_first(name="tok_embedding\u00e9.weigh"), "tensor[0].name"),
    ("a name with NUL", with_first(name="tok_embeddings.w\0ight"), "tensor[0].name"),
    ("type 2^31", with_first(number=2**31), "tok_embeddings.weight.type"),
    ("a width of 0", with_first(shape=(5, 0)), "tok_embeddings.weight.shape"),
    ("a height of 0", with_first(shape=(0, 4)), "tok_embeddings.weight.shape"),
    ("blocks across rows", with_first(number=2), "tok_embeddings.weight.shape"),
    ("2^64 weights", with_first(shape=(2**32 - 1, 2**32 - 1)), "tok_embeddings.weight"),
    ("a name twice", replace(SMALL, tensors=SMALL.tensors[:1] * 2).build(), "tensor[1]"),
    ("a byte too few", GOOD[:-1], "output.weight"),
    ("a byte too many", GOOD + b"\0", "tensor[12]"),
    ("a zip behind it", GOOD + b"PK\5\6" + bytes(18), "tensor[12].n_dims"),
]


@pytest.mark.parametrize(("data", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_lie_is_named(tmp_path: Path, data: bytes, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        header_of(tmp_path, data)
    assert caught.value.field == field
    assert caught.value.offset is not None


def test_what_we_know_of_and_do_not_read_is_no_broken_file(tmp_path: Path) -> None:
    for data in (b"tjgg\4\0\0\0", b"algg\1\0\0\0", b"nsgg\1\0\0\0", b"GGML", b"lmgg"[::-1], with_first(number=30)):
        with pytest.raises(UnsupportedError):
            header_of(tmp_path, data)


def test_a_file_cut_at_any_byte_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(GOOD)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.hyperparameters.dim == 4
    for size in reversed(range(len(GOOD))):
        os.truncate(path, size)
        with pytest.raises(MalformedError) as caught:
            open_checkpoint(path)
        assert caught.value.field


def test_no_flipped_bit_does_more_than_raise(tmp_path: Path) -> None:
    """Every bit of the head, the vocabulary and three tensors' entries; names and numbers of the rest are the same."""
    path = tmp_path / "model.bin"
    path.write_bytes(GOOD)
    opened = 0
    with path.open("r+b", buffering=0) as file:
        for at in range(ENTRY + 200):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([GOOD[at] ^ 1 << bit]), at)
                try:
                    with open_checkpoint(path) as checkpoint:
                        opened += 1
                        assert checkpoint.vocabulary is not None and checkpoint.vocabulary.scores is not None
                        assert np.isfinite(checkpoint.vocabulary.scores).all()
                except MalformedError as error:
                    assert error.field
                except MissingError as error:  # an embedding half as wide is that of a model in two parts
                    assert error.path == path.with_name("model.bin.1")
            os.pwrite(file.fileno(), GOOD[at : at + 1], at)
    assert opened > 500  # weights, scores and texts may be any


def test_budgets_are_above_any_llama_and_cost_little(tmp_path: Path) -> None:
    """The most tokens that are read, then tensors without end: a few megabytes that take no time and no memory."""
    tokens = tuple(b"%06d" % number for number in range(MOST_TOKENS))
    head = Old("GGML", tokens, (0.0,) * MOST_TOKENS, SHAPE.numbers(0, MOST_TOKENS)).build()
    entries = b"".join(struct.pack("<IIII", 1, 5, 0, 1) + b"%05d" % number + bytes(4) for number in range(20_000))
    start = time.process_time()
    with pytest.raises(MalformedError, match=rf"tensor\[{MOST_TENSORS}\] at \d+: found \d+ bytes more"):
        header_of(tmp_path, head + entries)
    assert time.process_time() - start < 2
    assert MOST_TENSORS > 3 + 9 * 512
