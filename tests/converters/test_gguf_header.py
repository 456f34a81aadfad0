"""The head of a GGUF file: literal bytes, gguf-py as judge, and every lie that a header can tell."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import dtypes
from converters.errors import ChangedError, ConversionError, MalformedError, RefusedError, UnsupportedError
from converters.formats.gguf_dialect import Dialect
from converters.formats.gguf_header import (
    MOST_KEYS,
    MOST_TENSORS,
    Header,
    pack_header,
    padded,
    read_header,
)
from converters.formats.gguf_values import MOST_STRINGS, ValueType
from converters.input_file import InputFile
from converters.tensors import TensorInfo
from tests.fakes.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    INT8,
    INT32,
    Q8_0,
    SMALL,
    STRING,
    UINT8,
    UINT32,
    Gguf,
    array,
    key,
    string,
    strings,
    tensor,
    text,
    u32,
    u64,
    uint32,
)


def header_of(path: Path, data: bytes, **options: bool) -> Header:
    path.write_bytes(data)
    with InputFile(path) as file:
        return read_header(file, **options)


# One key and one tensor, written out.
LITERAL = (
    b"GGUF" + b"\x03\0\0\0" + b"\x01\0\0\0\0\0\0\0" + b"\x01\0\0\0\0\0\0\0"
    + b"\x01\0\0\0\0\0\0\0" + b"k" + b"\x04\0\0\0" + b"\x07\0\0\0"
    + b"\x01\0\0\0\0\0\0\0" + b"w" + b"\x02\0\0\0" + b"\x03\0\0\0\0\0\0\0" + b"\x02\0\0\0\0\0\0\0"
    + b"\x01\0\0\0" + b"\0\0\0\0\0\0\0\0"
    + b"\0" * 14
)  # fmt: skip
HALVES = np.arange(6, dtype="<f2").tobytes() + b"\0" * 20


def test_literal_bytes_are_read(tmp_path: Path) -> None:
    header = header_of(tmp_path / "f", LITERAL + HALVES)
    assert (header.dialect, header.alignment, header.metadata) == (Dialect(3, "little"), 32, {"k": 7})
    assert header.tensors == ((TensorInfo("w", dtypes.F16, (2, 3)), 96),)
    assert (header.size, header.data_offset, header.data_end) == (82, 96, 128)
    entry = header.entries["k"]
    assert (entry.type, entry.element_type) == (ValueType.UINT32, None)
    assert (entry.offset_in_file, entry.value_offset, entry.value_bytes) == (24, 37, 4)


def test_literal_bytes_are_packed() -> None:
    assert pack_header({"k": 7}, [(TensorInfo("w", dtypes.F16, (2, 3)), 0)]) == LITERAL


def test_small_file_is_read(tmp_path: Path) -> None:
    header = header_of(tmp_path / "f", SMALL.build())
    numbers = header.metadata.pop("small.numbers")
    assert header.metadata == {
        "general.architecture": "small",
        "small.block_count": 2,
        "small.epsilon": 0.5,
        "small.flag": True,
        "small.words": ("one", "", "drei ✓"),
    }
    assert isinstance(numbers, np.ndarray) and numbers.tolist() == [1, -2] and numbers.dtype == np.int32
    assert not numbers.flags.writeable
    start = header.data_offset
    assert header.tensors == (
        (TensorInfo("first.weight", dtypes.F32, (2, 4)), start),
        (TensorInfo("second.weight", dtypes.Q8_0, (32,)), start + 32),
    )


def test_places_of_values_are_where_their_bytes_are(tmp_path: Path) -> None:
    data = SMALL.build()
    entries = header_of(tmp_path / "f", data).entries
    found = {name: data[e.value_offset : e.value_offset + e.value_bytes] for name, e in entries.items()}
    assert found["general.architecture"] == text("small")
    assert found["small.block_count"] == u32(2)
    assert found["small.numbers"] == u32(INT32) + u64(2) + struct.pack("<2i", 1, -2)


def test_version_2_is_read(tmp_path: Path) -> None:
    assert header_of(tmp_path / "f", replace(SMALL, version=2).build()).dialect == Dialect(2, "little")


@pytest.mark.parametrize("alignment", [1, 2, 8, 64, 4096])
def test_alignment_moves_the_data(tmp_path: Path, alignment: int) -> None:
    file = Gguf(
        (uint32("general.alignment", alignment),), (tensor("w", (8,), F32, 0),), bytes(padded(32, alignment)),
        alignment=alignment,
    )  # fmt: skip
    header = header_of(tmp_path / "f", file.build())
    assert header.alignment == alignment
    assert header.tensors[0][1] == header.data_offset == padded(len(file.header), alignment)


def test_header_without_tensors_may_be_padded_or_not(tmp_path: Path) -> None:
    file = Gguf((string("k", "v"),))
    assert header_of(tmp_path / "f", file.header).metadata == {"k": "v"}
    assert header_of(tmp_path / "f", file.build()).tensors == ()


def test_scalar_and_empty_tensors_are_read(tmp_path: Path) -> None:
    tensors = (tensor("scalar", (), F32, 0), tensor("empty", (32, 0), Q8_0, 32))
    header = header_of(tmp_path / "f", Gguf((), tensors, bytes(32)).build())
    assert [(info.shape, info.n_weights, info.n_bytes) for info, _ in header.tensors] == [((), 1, 4), ((0, 32), 0, 0)]


def test_odd_names_are_kept_and_never_shown_raw(tmp_path: Path) -> None:
    name = "a\0\n\x1b[31m\u202e"
    assert header_of(tmp_path / "f", Gguf((string(name, "v"),)).build()).metadata == {name: "v"}
    with pytest.raises(MalformedError) as caught:
        header_of(tmp_path / "f", Gguf((key(name, STRING, text("v", 2**60)),)).build())
    assert str(caught.value).isprintable()


def test_tensor_name_may_look_like_a_path(tmp_path: Path) -> None:
    header = header_of(tmp_path / "f", Gguf((), (tensor("../x", (8,), F32, 0),), bytes(32)).build())
    assert header.tensors[0][0].name == "../x"


def test_text_larger_than_the_window_is_read(tmp_path: Path) -> None:
    words = ["x" * 700_000, "y" * 3_000_000, "z", "é" * 500_000]
    data = Gguf((strings("words", words), uint32("after", 5))).build()
    assert header_of(tmp_path / "f", data).metadata == {"words": tuple(words), "after": 5}


FIXED = 24
FIRST_KEY = SMALL.keys[0]
LAST_KEY = f"key[{len(SMALL.keys)}]"


def with_key(*more: bytes) -> Gguf:
    return replace(SMALL, keys=(*SMALL.keys, *more))


def with_tensors(*tensors: bytes, data: bytes = SMALL.data) -> Gguf:
    return replace(SMALL, tensors=tensors, data=data)


BOTH = SMALL.tensors

BAD: list[tuple[str, Gguf | bytes, str]] = [
    *((f"G01 {n} bytes", SMALL.build()[:n], "header") for n in (0, 1, 3, 4, 7, 8, 23)),
    *((f"G02 {magic!r}", replace(SMALL, magic=magic), "header") for magic in (b"FUGG", b"GGML", b"tjgg", b"ggla")),
    *((f"G03 version {v:#x}", replace(SMALL, version=v), "version") for v in (0, 4, 0x04000000, 2**32 - 1)),
    *(
        (f"G05 {n} tensors", replace(SMALL, n_tensors=n), "n_tensors")
        for n in (2**64 - 1, 2**63, 2**40, len(SMALL.build()) // 24 + 1)
    ),
    *((f"G06 {n} keys", replace(SMALL, n_kv=n), "n_kv") for n in (2**64 - 1, 2**63, 10**9)),
    ("G06 one key more", replace(SMALL, n_kv=len(SMALL.keys) + 1), "tensor[0].name.length"),
    ("G06 one key more, no tensors", Gguf((string("k", "v" * 20),), n_kv=2).header, "n_kv"),
    ("G06 one key fewer", replace(SMALL, n_kv=len(SMALL.keys) - 1), "small.numbers.n_dims"),
    ("G05 one tensor more", replace(SMALL, n_tensors=3), "tensor[2].name.length"),
    ("G05 one tensor fewer", replace(SMALL, n_tensors=1), "trailing bytes"),
    *(
        (f"G08 key of {n} bytes", with_key(text(b"x" * 70_000, n) + u32(UINT8) + b"\0"), f"{LAST_KEY}.length")
        for n in (2**64 - 1, 0, 200_000, 65_536)
    ),
    ("G09 key not UTF-8", with_key(string(b"k\xff", "v")), LAST_KEY),
    ("G11 same key, same value", with_key(FIRST_KEY), LAST_KEY),
    ("G11 same key, other value", with_key(string("general.architecture", "other")), LAST_KEY),
    *((f"G12 type {kind}", with_key(key("k", kind, bytes(64))), f"{LAST_KEY}.type") for kind in (13, 2**31, 2**32 - 1)),
    *(
        (f"G13 nesting {depth}", with_key(key("k", ARRAY, (u32(ARRAY) + u64(1)) * depth + bytes(64))), "k.type")
        for depth in (1, 5, 10_000)
    ),
    ("G12 element type 13", with_key(array("k", 13, 0, b"")), "k.type"),
    *(
        (f"G14 array of {n} {kind}", with_key(array("k", kind, n, bytes(64))), "k.length")
        for n in (2**64 - 1, 2**61, 2**30 + 1, len(with_key(array("k", INT8, 0, bytes(64))).build()))
        for kind in (STRING, INT8, INT32)
    ),
    ("G14 one number too many", Gguf((array("k", INT32, 5, bytes(19)),)).header, "k.length"),
    *((f"G16 text of {n}", with_key(key("k", STRING, text("v", n))), "k.length") for n in (2**64 - 1, 2**63, 10**6)),
    ("G16 text in an array", with_key(array("k", STRING, 2, text("v") + text("w", 2**64 - 1))), "k[1].length"),
    ("G09 value not UTF-8", with_key(string("k", b"ok\xc0")), "k"),
    ("G09 value in an array not UTF-8", with_key(array("k", STRING, 2, text("v") + text(b"\xc0"))), "k[1]"),
    *((f"G17 bool {n}", with_key(key("k", BOOL, bytes([n]))), "k") for n in (2, 255)),
    ("G17 bool in an array", with_key(array("k", BOOL, 3, b"\1\0\2")), "k"),
    *(
        (f"G18 alignment {n}", with_key(uint32("general.alignment", n)), "general.alignment")
        for n in (0, 13, 2**21, 2**31, 2**32 - 1)
    ),
    ("G18 alignment INT32", with_key(key("general.alignment", INT32, u32(32))), "general.alignment"),
    ("G18 alignment STRING", with_key(string("general.alignment", "32")), "general.alignment"),
    ("G18 alignment array", with_key(array("general.alignment", UINT32, 1, u32(32))), "general.alignment"),
    ("G18 alignment BOOL", with_key(key("general.alignment", BOOL, b"\1")), "general.alignment"),
    ("G18 alignment twice", with_key(*[uint32("general.alignment", 32)] * 2), f"key[{len(SMALL.keys) + 1}]"),
    *(
        (f"G20 name of {n} bytes", with_tensors(tensor("n" * n, (8,), F32, 0)), "tensor[0].name.length")
        for n in (0, 64, 10_000_000)
    ),
    ("G20 name with NUL", with_tensors(tensor("a\0b", (8,), F32, 0)), "tensor[0].name"),
    ("G20 name not UTF-8", with_tensors(tensor(b"a\xff", (8,), F32, 0)), "tensor[0].name"),
    ("G20 name twice", with_tensors(BOTH[0], tensor("first.weight", (8,), F32, 32)), "tensor[1].name"),
    *(
        (f"G21 {n} dimensions", with_tensors(text("w") + u32(n) + bytes(64)), "w.n_dims") for n in (5, 2**31, 2**32 - 1)
    ),
    ("G22 dimension -1", with_tensors(tensor("w", (2**64 - 1,), F32, 0)), "w.shape"),
    ("G22 dimension 2**63-1", with_tensors(tensor("w", (2**63 - 1,), F32, 0)), "w"),
    ("G22 empty, but with 2**63 rows", with_tensors(tensor("w", (0, 2**62, 2), F32, 0)), "w.shape"),
    ("G23 product wraps", with_tensors(tensor("w", (2**32, 2**32), F32, 0)), "w.shape"),
    ("G23 product wraps to 8", with_tensors(tensor("w", (2**61 + 1, 8), F32, 0)), "w.shape"),
    ("G23 bytes wrap", with_tensors(tensor("w", (2**61, 2), F32, 0)), "w"),
    ("G23 row is no whole block", with_tensors(tensor("w", (33,), Q8_0, 0)), "w.shape"),
    (
        "G25 sizes wrap",
        with_tensors(tensor("a", (2**61 - 16,), F32, 0), tensor("b", (2**61 - 16,), F32, 2**63 - 64)),
        "a",
    ),
    *(
        (f"G27 type {n}", with_tensors(tensor("w", (8,), n, 0)), "w.type")
        for n in (4, 5, 9, 15, 31, 43, 2**31, 2**32 - 1)
    ),
    *(
        (f"G28 offset {n}", with_tensors(BOTH[0], tensor("w", (32,), Q8_0, n)), "w.offset")
        for n in (2**64 - 1, 33, 1 << 20, 0, 16, 64)
    ),
    ("G28 first one not at 0", with_tensors(tensor("w", (8,), F32, 32), data=bytes(64)), "w.offset"),
    ("G31 one byte missing", SMALL.build()[: -30 - 1], "second.weight"),
    ("G31 no data", SMALL.header, "first.weight"),
    ("G31 no padding", SMALL.build()[:-1], "second.weight"),
    ("G37 tensor larger than its bytes", with_tensors(tensor("w", (32, 64), Q8_0, 0)), "w"),
    *((f"G32 tail {len(t)}", replace(SMALL, tail=t), "trailing bytes") for t in (b"\0", bytes(4096), b"PK\3\4" * 20)),
    ("G32 tail and no tensors", Gguf((string("k", "v"),), tail=b"\0").build(), "trailing bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_header(tmp_path: Path, data: Gguf | bytes, field: str) -> None:
    data = data if isinstance(data, bytes) else data.build()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError) as caught:
            header_of(tmp_path / "f", data)
        assert tracemalloc.get_traced_memory()[1] < 2**22 + 2 * len(data)
    finally:
        tracemalloc.stop()
    assert caught.value.field == field
    assert caught.value.offset is not None and 0 <= int(caught.value.offset) <= len(data)
    assert str(caught.value).startswith(str(tmp_path / "f"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (SMALL.build()[:8], "found the file's end after 8 bytes"),
        (replace(SMALL, magic=b"tjgg").build(), "header at 0: found a GGML file from before GGUF, allowed b'GGUF'"),
        (
            replace(SMALL, version=4).build(),
            "version at 4: found version 4, allowed version 1, 2, 3, of either byte order",
        ),
        (replace(SMALL, version=0x04000000).build(), "version at 4: found a big-endian file, version 4"),
        (replace(SMALL, n_kv=7).build(), "or n_kv, 7, is not the number of keys"),
        (with_key(FIRST_KEY).build(), "found general.architecture again, first at 24"),
        (with_tensors(tensor("w", (8,), 4, 0)).build(), "found 4: Q4_2, which ggml has withdrawn"),
        (with_tensors(tensor("w", (8,), 15, 0)).build(), "found 15: Q8_K, which no file may hold"),
        (
            with_tensors(tensor("w", (8,), 137, 0)).build(),
            "found 137: IQ2_K, which only ik_llama.cpp has, allowed ggml's",
        ),
        (with_tensors(tensor("w", (8,), 353, 0)).build(), "found 353: MXFP4_R8, which only ik_llama.cpp has"),
        (with_tensors(BOTH[0], tensor("w", (32,), Q8_0, 0)).build(), "found 0, which overlaps the tensor before it"),
        (with_tensors(BOTH[0], tensor("w", (32,), Q8_0, 96)).build(), "found 96, which leaves a gap"),
        (with_tensors(BOTH[0], tensor("w", (32,), Q8_0, 33)).build(), "found 33, no multiple of 32"),
        (SMALL.build()[:-33], "3 of the tensor's 34 are missing"),
        (SMALL.header, "32 of the tensor's 32 are missing"),
        (SMALL.build()[:-7], "7 of the padding are missing"),
        (replace(SMALL, tail=b"PK").build(), "found 2 bytes after the last tensor"),
    ],
)
def test_message_says_what_is_wrong(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(MalformedError) as caught:
        header_of(tmp_path / "f", data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "file",
    [
        replace(SMALL, version=4),
        replace(SMALL, version=0x04000000),
        with_key(array("k", ARRAY, 0, b"")),
        with_tensors(tensor("w", (8,), 31, 0)),
        with_tensors(tensor("w", (8,), 15, 0)),
    ],
)
def test_known_but_not_read_is_unsupported(tmp_path: Path, file: Gguf) -> None:
    with pytest.raises(UnsupportedError):
        header_of(tmp_path / "f", file.build())


def test_trailing_bytes_are_left_alone_when_allowed(tmp_path: Path) -> None:
    data = replace(SMALL, tail=b"PK\3\4").build()
    header = header_of(tmp_path / "f", data, allow_trailing=True)
    assert header.data_end == len(data) - 4


def test_file_cut_at_every_byte_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "f", with_key(strings("more", (f"word {i}" for i in range(250)))).build()
    path.write_bytes(data)
    fields = set()
    for size in range(len(data) - 1, -1, -1):
        os.truncate(path, size)
        with InputFile(path) as file, pytest.raises(MalformedError) as caught:
            read_header(file)
        assert isinstance(caught.value.offset, int) and caught.value.offset <= size
        fields.add(caught.value.field)
    assert len(data) > 3000
    assert {
        "header",
        "n_kv",
        "n_tensors",
        "more[249].length",
        "tensor[1].name.length",
        "second.weight.offset",
    } <= fields


def test_file_with_any_bit_flipped_is_read_or_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "f", bytearray(SMALL.build())
    path.write_bytes(data)
    verdicts = {True: 0, False: 0}
    tracemalloc.start()
    with path.open("r+b", buffering=0) as out:
        for position in range(len(SMALL.header)):
            for bit in range(8):
                os.pwrite(out.fileno(), bytes([data[position] ^ 1 << bit]), position)
                with InputFile(path) as file:
                    try:
                        verdicts[bool(read_header(file))] += 1
                    except ConversionError as error:
                        assert isinstance(error, MalformedError)
                        verdicts[False] += 1
            os.pwrite(out.fileno(), data[position : position + 1], position)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert verdicts[False] > 1000 and verdicts[True] > 100


def distinct_keys(count: int) -> bytes:
    """Entries of four-letter keys with a UINT8."""
    entries = np.zeros(count, np.dtype([("length", "<u8"), ("name", "S4"), ("type", "<u4"), ("value", "u1")]))
    entries["length"], entries["name"] = 4, [b"%04x" % i for i in range(count)]
    return entries.tobytes()


def distinct_empty_tensors(count: int) -> bytes:
    """Entries of tensors without weights."""
    kind = [("length", "<u8"), ("name", "S6"), ("n_dims", "<u4"), ("n", "<u8"), ("type", "<u4"), ("offset", "<u8")]
    entries = np.zeros(count, np.dtype(kind))
    entries["length"], entries["name"], entries["n_dims"] = 6, [b"%06x" % i for i in range(count)], 1
    return entries.tobytes()


@pytest.mark.parametrize(
    ("file", "n_read"),
    [
        (Gguf((distinct_keys(MOST_KEYS),), n_kv=MOST_KEYS), MOST_KEYS),
        (Gguf((), (distinct_empty_tensors(MOST_TENSORS),), n_tensors=MOST_TENSORS), MOST_TENSORS),
        (Gguf((bytes(14 * 10**6),), n_kv=10**6), None),
        (Gguf((), (distinct_empty_tensors(10**6),), n_tensors=10**6), None),
    ],
    ids=["most keys", "most tensors", "G36 10^6 keys", "G36 10^6 tensors"],
)
def test_many_entries_take_bounded_time_and_memory(tmp_path: Path, file: Gguf, n_read: int | None) -> None:
    (tmp_path / "f").write_bytes(file.build())
    start = time.process_time()
    with InputFile(tmp_path / "f") as opened:
        if n_read is None:
            with pytest.raises(MalformedError, match=r"n_kv|n_tensors"):
                read_header(opened)
        else:
            header = read_header(opened)
            assert len(header.entries) + len(header.tensors) == n_read
    assert time.process_time() - start < 10


def test_more_strings_than_any_model_has_are_refused(tmp_path: Path) -> None:
    half = MOST_STRINGS // 2 + 1
    path = tmp_path / "f"
    path.write_bytes(Gguf(n_kv=2).header + array("k", STRING, 2 * half, b""))
    os.truncate(path, 10**9)
    with InputFile(path) as file, pytest.raises(MalformedError, match="strings") as caught:
        read_header(file)
    assert caught.value.field == "k.length"


def test_header_larger_than_any_model_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(Gguf(n_kv=1).header + array("k", UINT8, 2**28, b""))
    os.truncate(path, 2**29)
    with InputFile(path) as file, pytest.raises(MalformedError, match="a header of at most") as caught:
        read_header(file)
    assert caught.value.field == "k.length"


def test_file_that_becomes_shorter_is_an_error_and_no_signal(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(SMALL.build())
    with InputFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(ChangedError):
            read_header(file)


NUMBERS = ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8", "?"]
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: st.SearchStrategy[object] = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**64 - 1),
    st.floats(width=32, allow_nan=False),
    TEXT,
    st.lists(TEXT, max_size=5).map(tuple),
    st.builds(
        lambda kind, data: np.frombuffer(bytes(b & 1 for b in data) if kind == "?" else data * 8, kind),
        st.sampled_from(NUMBERS),
        st.binary(max_size=5),
    ),
)
SHAPES = st.tuples(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2))
IN_GGUF = [dtype for dtype in dtypes.ALL if dtype.ggml_id is not None]


@st.composite
def tensor_infos(draw: st.DrawFn) -> TensorInfo:
    dtype = draw(st.sampled_from(IN_GGUF))
    rows, blocks = draw(SHAPES)
    name = draw(st.text(st.characters(codec="ascii", min_codepoint=1), min_size=1, max_size=63))
    return TensorInfo(name, dtype, (*rows, blocks * dtype.block_size))


def same(a: object, b: object) -> bool:
    """Equal, of the same type, and for arrays of the same dtype; bytes decide, so that NaN equals itself."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


@settings(deadline=None)
@given(
    metadata=st.dictionaries(TEXT.filter(lambda k: k not in ("", "general.alignment")), VALUES, max_size=6),
    infos=st.lists(tensor_infos(), max_size=5, unique_by=lambda info: info.name),
    alignment=st.sampled_from([1, 32, 256]),
)
def test_what_is_packed_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, object], infos: list[TensorInfo], alignment: int
) -> None:
    if alignment != 32:
        metadata["general.alignment"] = alignment
    offsets, end = [], 0
    for info in infos:
        offsets.append(end)
        end = padded(end + info.n_bytes, alignment)
    head = pack_header(metadata, list(zip(infos, offsets, strict=True)), alignment)
    header = header_of(tmp_path_factory.getbasetemp() / "packed", head + bytes(end))
    assert list(header.metadata) == list(metadata)
    assert all(same(header.metadata[name], value) for name, value in metadata.items())
    assert [(info, len(head) + offset) for info, offset in zip(infos, offsets, strict=True)] == list(header.tensors)
    assert header.data_end == len(head) + end if infos else header.data_end <= len(head)


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (True, u32(BOOL) + b"\1"),
        (2**32 - 1, u32(UINT32) + b"\xff\xff\xff\xff"),
        (2**32, u32(10) + u64(2**32)),
        (-1, u32(INT32) + b"\xff\xff\xff\xff"),
        (-(2**31), u32(INT32) + b"\0\0\0\x80"),
        (-(2**31) - 1, u32(11) + b"\xff\xff\xff\x7f\xff\xff\xff\xff"),
        (0.5, u32(6) + b"\0\0\0\x3f"),
        (float("-inf"), u32(6) + b"\0\0\x80\xff"),
        (1e300, u32(12) + struct.pack("<d", 1e300)),
        ("é", u32(STRING) + u64(2) + b"\xc3\xa9"),
        (["a", "b"], u32(ARRAY) + u32(STRING) + u64(2) + text("a") + text("b")),
        ([], u32(ARRAY) + u32(STRING) + u64(0)),
        (np.array([1, 2], np.int32), u32(ARRAY) + u32(INT32) + u64(2) + b"\1\0\0\0\2\0\0\0"),
        (np.array([1], ">i4"), u32(ARRAY) + u32(INT32) + u64(1) + b"\1\0\0\0"),
    ],
)
def test_value_is_packed_by_its_type(value: object, packed: bytes) -> None:
    assert pack_header({"k": value}, [], 1)[FIXED:] == text("k") + packed


@pytest.mark.parametrize("value", [None, {}, [1, 2], b"x", np.zeros((2, 2)), np.zeros(2, np.complex64)])
def test_value_that_gguf_has_no_type_for_is_a_wrong_call(value: object) -> None:
    with pytest.raises(ValueError, match="k: GGUF has no type"):
        pack_header({"k": value}, [])


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"general\.name"):
        pack_header({"general.name": "x\ud800"}, [])


def test_file_of_gguf_py_is_read(tmp_path: Path) -> None:
    writer = gguf_py.GGUFWriter(tmp_path / "f", "tested")
    scalars: dict[str, tuple[Callable[[str, Any], None], Any]] = {
        "u8": (writer.add_uint8, 200),
        "i8": (writer.add_int8, -100),
        "u16": (writer.add_uint16, 60_000),
        "i16": (writer.add_int16, -30_000),
        "u32": (writer.add_uint32, 4 * 10**9),
        "i32": (writer.add_int32, -(2 * 10**9)),
        "u64": (writer.add_uint64, 2**63),
        "i64": (writer.add_int64, -(2**62)),
        "f32": (writer.add_float32, 0.25),
        "f64": (writer.add_float64, 1e-300),
        "yes": (writer.add_bool, True),
        "no": (writer.add_bool, False),
        "text": (writer.add_string, "zwölf 十二"),
        "texts": (writer.add_array, ["a", "", "ß"]),
    }
    for name, (add, value) in scalars.items():
        add(name, value)
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("bools", [True, False])
    random = np.random.default_rng(0)
    weights = {
        "a": random.standard_normal((3, 5)).astype(np.float32),
        "b": random.standard_normal((2, 3, 4)).astype(np.float16),
        "c": random.standard_normal(7).astype(np.float32),
    }
    for name, array_ in weights.items():
        writer.add_tensor(name, array_)
    packed = gguf_py.quants.quantize(
        random.standard_normal((4, 64)).astype(np.float32), gguf_py.GGMLQuantizationType.Q4_0
    )
    writer.add_tensor("q", packed, raw_dtype=gguf_py.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with InputFile(tmp_path / "f") as file:
        header = read_header(file)
        stored = {info.name: (info, file.read(offset, info.n_bytes, info.name)) for info, offset in header.tensors}
    arrays = {name: header.metadata.pop(name) for name in ("ints", "floats", "bools")}
    expected = {name: tuple(v) if isinstance(v, list) else v for name, (_, v) in scalars.items()}
    assert header.metadata == {"general.architecture": "tested"} | expected
    assert {name: a.tolist() for name, a in arrays.items() if isinstance(a, np.ndarray)} == {
        "ints": [1, -2, 3], "floats": [0.5, -1.5], "bools": [True, False],
    }  # fmt: skip
    assert {name: (info.shape, data) for name, (info, data) in stored.items()} == {
        name: (array_.shape, array_.tobytes()) for name, array_ in weights.items()
    } | {"q": ((4, 64), packed.tobytes())}
    assert stored["q"][0].dtype is dtypes.Q4_0 and stored["b"][0].dtype is dtypes.F16


def test_real_file_is_read_as_gguf_py_reads_it(smollm2_gguf: Path) -> None:
    start = time.process_time()
    with InputFile(smollm2_gguf) as file:
        header = read_header(file)
    assert time.process_time() - start < 0.3
    reader = gguf_py.GGUFReader(smollm2_gguf)
    theirs = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    ours = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in header.metadata.items()}
    assert ours == {
        name: tuple(v) if isinstance(v, list) and isinstance(v[0], str) else v for name, v in theirs.items()
    }
    assert [(info.name, info.dtype.ggml_id, info.shape, offset, info.n_bytes) for info, offset in header.tensors] == [
        (t.name, t.tensor_type, tuple(t.shape.tolist()[::-1]), t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    assert header.data_offset == reader.data_offset and header.data_end == smollm2_gguf.stat().st_size
