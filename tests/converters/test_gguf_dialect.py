"""GGUF of all versions and byte orders: literal bytes, gguf-py as judge, and the lies that each form can tell."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import dtypes
from converters.errors import ConversionError, MalformedError
from converters.formats import gguf
from converters.formats.gguf_dialect import Dialect, dialect_of
from converters.formats.gguf_header import Header, pack_header, read_header
from converters.formats.gguf_values import ValueType
from converters.input_file import InputFile
from converters.tensors import TensorInfo
from tests.fakes.gguf_bytes import ARRAY, BOOL, F32, INT8, INT32, LLAMA_SHAPES, Q8_0, STRING, TOKENS, UINT8
from tests.fakes.gguf_forms import FORMS, V1, V1_BIG, V3, V3_BIG, Form, name_of

every_form = pytest.mark.parametrize("form", FORMS, ids=name_of)


def header_of(path: Path, data: bytes) -> Header:
    path.write_bytes(data)
    with InputFile(path) as file:
        return read_header(file)


LITERAL = {
    V1: (
        b"GGUF" + b"\x01\0\0\0" + b"\x01\0\0\0" + b"\x01\0\0\0"
        + b"\x01\0\0\0" + b"k" + b"\x04\0\0\0" + b"\x07\0\0\0"
        + b"\x01\0\0\0" + b"w" + b"\x02\0\0\0" + b"\x03\0\0\0" + b"\x02\0\0\0" + b"\x01\0\0\0" + bytes(8)
        + bytes(6)
    ),
    V1_BIG: (
        b"GGUF" + b"\0\0\0\x01" + b"\0\0\0\x01" + b"\0\0\0\x01"
        + b"\0\0\0\x01" + b"k" + b"\0\0\0\x04" + b"\0\0\0\x07"
        + b"\0\0\0\x01" + b"w" + b"\0\0\0\x02" + b"\0\0\0\x03" + b"\0\0\0\x02" + b"\0\0\0\x01" + bytes(8)
        + bytes(6)
    ),
    V3_BIG: (
        b"GGUF" + b"\0\0\0\x03" + bytes(7) + b"\x01" + bytes(7) + b"\x01"
        + bytes(7) + b"\x01" + b"k" + b"\0\0\0\x04" + b"\0\0\0\x07"
        + bytes(7) + b"\x01" + b"w" + b"\0\0\0\x02" + bytes(7) + b"\x03" + bytes(7) + b"\x02" + b"\0\0\0\x01" + bytes(8)
        + bytes(14)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", LITERAL, ids=name_of)
def test_literal_bytes_are_read_and_packed(form: Form, tmp_path: Path) -> None:
    dialect = Dialect(form.version, "little" if form.order == "<" else "big")
    header = header_of(tmp_path / "f", LITERAL[form] + bytes(32))
    assert (header.dialect, header.metadata) == (dialect, {"k": 7})
    assert header.tensors == ((TensorInfo("w", dtypes.F16, (2, 3)), len(LITERAL[form])),)
    assert pack_header({"k": 7}, [(TensorInfo("w", dtypes.F16, (2, 3)), 0)], dialect=dialect) == LITERAL[form]


def test_version_tells_the_byte_order() -> None:
    known = {bytes(4): None, b"\4\0\0\0": None, b"\0\0\0\4": None, b"\0\3\0\0": None, b"\xff" * 4: None}
    known |= {b"\3\0\0\0": Dialect(3, "little"), b"\0\0\0\3": Dialect(3, "big"), b"\0\0\0\1": Dialect(1, "big")}
    assert {version: dialect_of(version) for version in known} == known


@every_form
def test_every_form_says_the_same(form: Form, tmp_path: Path) -> None:
    header = header_of(tmp_path / "f", form.small())
    numbers = header.metadata.pop("small.numbers")
    assert header.metadata == {
        "general.architecture": "small",
        "small.block_count": 2,
        "small.epsilon": 0.5,
        "small.flag": True,
        "small.words": ("one", "", "drei ✓"),
    }
    assert isinstance(numbers, np.ndarray) and (numbers.tolist(), numbers.dtype) == ([1, -2], np.dtype("<i4"))
    assert not numbers.flags.writeable
    assert [info for info, _ in header.tensors] == [
        TensorInfo("first.weight", dtypes.F32, (2, 4)),
        TensorInfo("second.weight", dtypes.Q8_0, (32,)),
    ]
    assert header.data_end == len(form.small())


@every_form
def test_every_form_is_the_same_model(form: Form, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(form.llama())
    with gguf.open_checkpoint(path) as checkpoint:
        assert checkpoint.vocabulary is not None
        assert (checkpoint.vocabulary.tokens, checkpoint.vocabulary.eos_id) == (TOKENS, 7)
        assert {name: tensor.info.shape for name, tensor in checkpoint.tensors.items()} == LLAMA_SHAPES
        q = checkpoint.tensors["blk.0.attn_q.weight"]
        assert q.read_rows(3, 5).view("<f4")[:, 0].tolist() == [288 + 3 * 32, 288 + 4 * 32]
        assert (q.position, q.origin) == (("f", q.position[1]), "f: blk.0.attn_q.weight")


@pytest.mark.parametrize("form", FORMS[2:], ids=name_of)  # it reads versions 2 and 3
def test_gguf_py_reads_what_is_packed(form: Form, tmp_path: Path) -> None:
    dialect = Dialect(form.version, "little" if form.order == "<" else "big")
    metadata = {"general.architecture": "x", "number": 2**31, "float": -0.5, "words": ("a", "ß"), "yes": True}
    metadata |= {"numbers": np.array([1, -2], np.int16), "exact": np.uint16(7), "big": np.int64(-(2**40))}
    info = TensorInfo("w", dtypes.F32, (2, 4))
    weights = np.arange(8, dtype=f"{form.order}f4")
    (tmp_path / "f").write_bytes(pack_header(metadata, [(info, 0)], dialect=dialect) + weights.tobytes())

    reader = gguf_py.GGUFReader(tmp_path / "f")

    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {name: value for name, value in metadata.items() if name not in ("words", "numbers")} | {
        "words": ["a", "ß"], "numbers": [1, -2],
    }  # fmt: skip
    assert reader.fields["exact"].types == [gguf_py.GGUFValueType.UINT16]
    assert reader.tensors[0].data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@settings(deadline=None)
@given(
    version=st.sampled_from([1, 2, 3]),
    text=st.text(st.characters(codec="utf-8"), max_size=9),
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=4).map(tuple),
    values=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=4),
    kind=st.sampled_from(["i2", "i4", "i8", "f4", "f8"]),
    rows=st.integers(0, 3),
)
def test_what_is_packed_is_read_again_in_both_orders(
    tmp_path_factory: pytest.TempPathFactory, version: int, text: str, words: tuple[str, ...], values: list[int],
    kind: str, rows: int,
) -> None:  # fmt: skip
    metadata = {"text": text, "words": words, "values": np.array(values, kind)}
    metadata |= {str(index): np.dtype(kind).type(value) for index, value in enumerate(values)}
    info = TensorInfo("w", dtypes.Q8_0, (rows, 32))
    for dialect in (Dialect(version, "little"), Dialect(version, "big")):
        head = pack_header(metadata, [(info, 0)], dialect=dialect)
        header = header_of(tmp_path_factory.getbasetemp() / "packed", head + bytes(-(-34 * rows // 32) * 32))
        assert header.dialect == dialect and header.tensors == ((info, len(head)),)
        assert pack_header(header.exact_metadata, [(info, 0)], dialect=dialect) == head


def test_exact_values_are_packed_into_the_types_they_had(tmp_path: Path) -> None:
    kinds = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "u8": 10, "i8": 11, "f8": 12}
    metadata: dict[str, object] = {kind: np.dtype(kind).type(3) for kind in kinds}
    header = header_of(tmp_path / "f", pack_header({**metadata, "flag": True}, []))
    assert {key: entry.type for key, entry in header.entries.items()} == {
        **{kind: ValueType(number) for kind, number in kinds.items()}, "flag": ValueType.BOOL,
    }  # fmt: skip


# What a form can be lied about: (name, file, field).
Lie = Callable[[Form], bytes]
HUGE = 2**32 - 1  # as a count of version 1; in the others the first half of a larger one


def with_key(entry: Callable[[Form], bytes]) -> Lie:
    return lambda form: form.file([*form.small_keys(), entry(form)], form.small_tensors(), form.small_data())


def with_tensors(*entries: Callable[[Form], bytes], n_bytes: int = 96) -> Lie:
    return lambda form: form.file(form.small_keys(), [entry(form) for entry in entries], bytes(n_bytes))


def counted(**counts: int) -> Lie:
    return lambda form: form.file(form.small_keys(), form.small_tensors(), form.small_data(), **counts)


LIES: list[tuple[str, Lie, str]] = [
    ("G01 nothing after the version", lambda form: form.small()[:8], "header"),
    ("G01 counts cut", lambda form: form.small()[: 8 + 2 * form.count_bytes - 1], "header"),
    ("G05 tensors", counted(n_tensors=HUGE), "n_tensors"),
    ("G06 keys", counted(n_kv=HUGE), "n_kv"),
    ("G06 one key more", counted(n_kv=7), "tensor[0].name.length"),
    ("G06 one key fewer", counted(n_kv=5), "small.numbers.n_dims"),
    ("G05 one tensor more", counted(n_tensors=3), "tensor[2].name.length"),
    ("G08 no key", with_key(lambda form: form.key("", UINT8, b"\0")), "key[6].length"),
    ("G08 long key", with_key(lambda form: form.text("x", HUGE) + bytes(9)), "key[6].length"),
    ("G09 no UTF-8", with_key(lambda form: form.key(b"\xff", UINT8, b"\0")), "key[6]"),
    ("G11 twice", with_key(lambda form: form.small_keys()[0]), "key[6]"),
    ("G12 type 13", with_key(lambda form: form.key("k", 13, bytes(8))), "key[6].type"),
    ("G13 nested", with_key(lambda form: form.array("k", ARRAY, 1, bytes(16))), "k.type"),
    ("G14 numbers", with_key(lambda form: form.array("k", INT8, HUGE, bytes(16))), "k.length"),
    ("G14 strings", with_key(lambda form: form.array("k", STRING, HUGE, bytes(16))), "k.length"),
    ("G16 text", with_key(lambda form: form.key("k", STRING, form.text("v", HUGE))), "k.length"),
    ("G16 text in an array", with_key(lambda form: form.array("k", STRING, 1, form.text("v", HUGE))), "k[0].length"),
    ("G17 bool", with_key(lambda form: form.key("k", BOOL, b"\2")), "k"),
    ("G18 alignment 0", with_key(lambda form: form.uint32("general.alignment", 0)), "general.alignment"),
    ("G18 alignment INT32", with_key(lambda form: form.key("general.alignment", INT32, form.u32(32))),
     "general.alignment"),
    ("G20 long name", with_tensors(lambda form: form.tensor("n" * 64, (8,), F32, 0)), "tensor[0].name.length"),
    ("G20 no name", with_tensors(lambda form: form.tensor("", (8,), F32, 0)), "tensor[0].name.length"),
    ("G20 name twice", with_tensors(*[lambda form: form.tensor("w", (8,), F32, 0)] * 2), "tensor[1].name"),
    ("G21 five dimensions", with_tensors(lambda form: form.tensor("w", (1,) * 5, F32, 0)), "w.n_dims"),
    ("G22 2^32-1 rows", with_tensors(lambda form: form.tensor("w", (8, HUGE), F32, 0)), "w"),
    ("G23 product", with_tensors(lambda form: form.tensor("w", (HUGE, HUGE), F32, 0)), "w.shape"),
    ("G23 no whole block", with_tensors(lambda form: form.tensor("w", (33,), Q8_0, 0)), "w.shape"),
    ("G27 withdrawn", with_tensors(lambda form: form.tensor("w", (32,), 4, 0)), "w.type"),
    ("G27 type", with_tensors(lambda form: form.tensor("w", (32,), HUGE, 0)), "w.type"),
    ("G28 offset", with_tensors(lambda form: form.tensor("w", (8,), F32, 2**64 - 32)), "w.offset"),
    ("G28 unaligned", with_tensors(lambda form: form.tensor("w", (8,), F32, 1)), "w.offset"),
    ("G28 overlap", with_tensors(*[lambda form, n=name: form.tensor(n, (8,), F32, 0) for name in "ab"]), "b.offset"),
    ("G31 one byte missing", lambda form: form.small()[:-31], "second.weight"),
    ("G31 padding missing", lambda form: form.small()[:-1], "second.weight"),
    ("G32 tail", lambda form: form.small() + b"\0", "trailing bytes"),
]  # fmt: skip


@every_form
@pytest.mark.parametrize(("lie", "field"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_bad_header_of_every_form(form: Form, lie: Lie, field: str, tmp_path: Path) -> None:
    data = lie(form)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError) as caught:
            header_of(tmp_path / "f", data)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert caught.value.field == field
    assert isinstance(caught.value.offset, int) and caught.value.offset <= len(data)


@pytest.mark.parametrize("form", [V1, V3_BIG], ids=name_of)
def test_file_cut_at_every_byte_is_refused(form: Form, tmp_path: Path) -> None:
    path, data = tmp_path / "f", form.llama()
    path.write_bytes(data)
    fields = set()
    for size in [*range(len(data) - 1, 2000, -97), *range(2000, -1, -1)]:  # the weights by steps, the rest by bytes
        os.truncate(path, size)
        with pytest.raises(MalformedError) as caught, InputFile(path) as file:
            read_header(file)
        assert isinstance(caught.value.offset, int) and caught.value.offset <= size
        fields.add(caught.value.field)
    assert {"header", "n_kv", "n_tensors", "tensor[11].name.length", "output.weight.offset"} <= fields


@pytest.mark.parametrize("form", [V1, V1_BIG, V3_BIG], ids=name_of)
def test_file_with_any_bit_flipped_is_read_or_refused(form: Form, tmp_path: Path) -> None:
    path, data = tmp_path / "f", form.small()
    path.write_bytes(data)
    verdicts = {True: 0, False: 0}
    with path.open("r+b", buffering=0) as out:
        for position in range(len(form.header(form.small_keys(), form.small_tensors()))):
            for bit in range(8):
                os.pwrite(out.fileno(), bytes([data[position] ^ 1 << bit]), position)
                with InputFile(path) as file:
                    try:
                        verdicts[bool(read_header(file))] += 1
                    except ConversionError as error:
                        assert isinstance(error, MalformedError)
                        verdicts[False] += 1
            os.pwrite(out.fileno(), data[position : position + 1], position)
    assert verdicts[False] > 800 and verdicts[True] > 100


def test_a_turned_version_is_another_file(tmp_path: Path) -> None:
    """A little-endian file whose version is written the other way round has counts that cannot be."""
    data = bytearray(V3.small())
    data[4:8] = data[4:8][::-1]
    with pytest.raises(MalformedError) as caught:
        header_of(tmp_path / "f", bytes(data))
    assert (caught.value.field, caught.value.found) == ("n_tensors", 2 << 56)
