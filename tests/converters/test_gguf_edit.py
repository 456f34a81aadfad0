"""Keys changed in a header: what stays where it is, what is refused, what the bytes are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest

from converters.errors import RefusedError
from converters.formats.gguf_edit import PAD, changed, fitted, moved
from converters.formats.gguf_header import Header, read_header
from converters.input_file import InputFile
from tests.fakes.gguf_bytes import BOOL, FLOAT64, STRING, UINT16, Gguf, array, int32s, key, llama, string, strings, text
from tests.fakes.gguf_bytes import tensor as tensor_entry
from tests.fakes.gguf_forms import FORMS, V3, Form, name_of

Changes = Mapping[str, str | None]


def header_of(path: Path, data: bytes) -> Header:
    path.write_bytes(data)
    with InputFile(path) as file:
        return read_header(file)


def edited(path: Path, data: bytes, changes: Changes, kind: str | None = None, *, force: bool = False) -> Header:
    return changed(header_of(path, data), changes, kind, force=force)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_value_of_the_same_length_changes_its_bytes_alone(form: Form, tmp_path: Path) -> None:
    data, changes = form.small(), {"small.block_count": "3", "general.architecture": "SMALL", "small.flag": "false"}
    header = edited(tmp_path / "f", data, changes, force=True)
    expected = data.replace(form.uint32("small.block_count", 2), form.uint32("small.block_count", 3))
    expected = expected.replace(form.text("small"), form.text("SMALL"), 1)
    expected = expected.replace(form.key("small.flag", BOOL, b"\1"), form.key("small.flag", BOOL, b"\0"))
    assert fitted(header, changes) == expected[: header.data_offset]


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"small.words": '["ein Wort"]'}, None),
        ({"small.words": "[]"}, None),
        ({"general.architecture": "x" * 200}, None),
        ({"small.numbers": None, "small.words": None}, None),
        ({"new": "x" * 70}, "string"),
        ({"new": "[1, 2, 3]"}, "i16[]"),
    ],
)
def test_head_is_read_again_and_data_keep_their_place(
    form: Form, changes: Changes, kind: str | None, tmp_path: Path
) -> None:
    data = form.small()
    header = edited(tmp_path / "f", data, changes, kind, force=True)
    heads = [head for head in (fitted(header, changes), moved(header, changes)) if head is not None]
    for head in heads:
        again = header_of(tmp_path / "g", head + data[header.data_offset :])
        assert again.dialect == header.dialect
        assert [info for info, _ in again.tensors] == [info for info, _ in header.tensors]
        assert again.exact_metadata.keys() - {PAD} == header.exact_metadata.keys()
        for name in header.exact_metadata:
            assert np.array_equal(again.metadata[name], header.metadata[name]), name
            assert again.entries[name].type is header.entries[name].type
    assert (len(heads[-1]) - header.data_offset) % 4096 == 0
    if len(heads) == 2:
        assert len(heads[0]) == header.data_offset


LONG = Gguf(
    (string("general.name", "n" * 100), strings("words", ["w"] * 50), int32s("numbers", [7] * 50)),
    (tensor_entry("w", (8,), 0, 0),),
    bytes(32),
)


def test_what_is_behind_a_shorter_value_does_not_move(tmp_path: Path) -> None:
    header = edited(tmp_path / "f", LONG.build(), {"general.name": "x"})
    head = fitted(header, {"general.name": "x"})
    assert head is not None
    start = 24 + len(string("general.name", "n" * 100))
    assert head[start:] == LONG.build()[start : header.data_offset]
    pad = string(PAD, " " * (start - 24 - len(string("general.name", "x") + string(PAD, ""))))
    assert head[24:start] == string("general.name", "x") + pad
    # And back again, out of the pad.
    again = changed(header_of(tmp_path / "g", head + bytes(32)), {"general.name": "n" * 60})
    grown = fitted(again, {"general.name": "n" * 60})
    assert grown is not None and grown[start:] == head[start:]
    assert grown[24:start] == string("general.name", "n" * 60) + string(PAD, " " * (len(pad) - 59 - 30))


@pytest.mark.parametrize("length", range(40))
def test_any_growth_fits_or_does_not(length: int, tmp_path: Path) -> None:
    """With nothing but the padding of the alignment to grow into."""
    data = LONG.build()
    changes = {"general.name": "n" * (100 + length)}
    header = edited(tmp_path / "f", data, changes)
    head = fitted(header, changes)
    assert (head is not None) == (header.size + length <= header.data_offset)
    if head is not None:
        assert header_of(tmp_path / "g", head + bytes(32)).metadata["general.name"] == changes["general.name"]


@pytest.mark.parametrize("removed", range(101))
def test_any_shrinking_fits(removed: int, tmp_path: Path) -> None:
    changes = {"general.name": "n" * (100 - removed)}
    header = edited(tmp_path / "f", LONG.build(), changes)
    head = fitted(header, changes)
    assert head is not None
    again = header_of(tmp_path / "g", head + bytes(32))
    assert again.metadata["general.name"] == changes["general.name"] and again.data_offset == header.data_offset


@pytest.mark.parametrize("alignment", [1, 8, 4096, 2**16])
def test_other_alignments(alignment: int, tmp_path: Path) -> None:
    keys = (key("general.alignment", 4, alignment.to_bytes(4, "little")), string("k", "v" * 50))
    data = Gguf(keys, (tensor_entry("w", (8,), 0, 0),), bytes(max(32, alignment)), alignment=alignment).build()
    for value in ("x", "y" * 5000):
        header = edited(tmp_path / "f", data, {"k": value})
        fit = fitted(header, {"k": value})
        assert fit is None or len(fit) == header.data_offset
        head = moved(header, {"k": value})
        assert (len(head) - header.data_offset) % max(4096, alignment) == 0
        again = header_of(tmp_path / "g", head + data[header.data_offset :])
        assert (again.metadata["k"], again.data_offset) == (value, len(head))


def test_file_without_tensors_is_written_anew(tmp_path: Path) -> None:
    header = edited(tmp_path / "f", Gguf((string("k", "v"),)).build(), {"k": "x" * 40})
    assert fitted(header, {"k": "x" * 40}) is None
    assert moved(header, {"k": "x" * 40}) == Gguf((string("k", "x" * 40),)).build()


@pytest.mark.parametrize(
    ("value", "kind", "packed"),
    [
        ("255", "u8", b"\0\0\0\0\xff"),
        ("-128", "i8", b"\1\0\0\0\x80"),
        ("65535", "u16", b"\2\0\0\0\xff\xff"),
        ("-1", "i16", b"\3\0\0\0\xff\xff"),
        ("7", "u32", b"\4\0\0\0\7\0\0\0"),
        ("-7", "i32", b"\5\0\0\0\xf9\xff\xff\xff"),
        ("1e-5", "f32", b"\6\0\0\0\xac\xc5\x27\x37"),
        ("10000", "f32", b"\6\0\0\0\0\x40\x1c\x46"),
        ("true", "bool", b"\7\0\0\0\1"),
        ("true", "string", b"\x08\0\0\0" + text("true")),
        ("", "string", b"\x08\0\0\0" + text("")),
        ("a=b", "string", b"\x08\0\0\0" + text("a=b")),
        ("18446744073709551615", "u64", b"\x0a\0\0\0" + b"\xff" * 8),
        ("-9223372036854775808", "i64", b"\x0b\0\0\0" + bytes(7) + b"\x80"),
        ("0.5", "f64", b"\x0c\0\0\0" + bytes(6) + b"\xe0\x3f"),
        ('["a", "ß"]', "string[]", array("", STRING, 2, text("a") + text("ß"))[8:]),
        ("[1, 2]", "u16[]", array("", UINT16, 2, b"\1\0\2\0")[8:]),
        ("[]", "f64[]", array("", FLOAT64, 0, b"")[8:]),
        ("[true, false]", "bool[]", array("", BOOL, 2, b"\1\0")[8:]),
    ],
)
def test_value_is_packed_as_the_type_that_was_asked_for(value: str, kind: str, packed: bytes, tmp_path: Path) -> None:
    header = edited(tmp_path / "f", LONG.build(), {"key": value}, kind)
    assert text("key") + packed in moved(header, {"key": value})


def test_key_keeps_its_type_or_gets_another(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert edited(path, LONG.build(), {"numbers": "[1]"}).entries["numbers"].element_type == 5
    header = edited(path, LONG.build(), {"numbers": "[1]"}, "u8[]")
    assert header.entries["numbers"].element_type == 0
    assert edited(path, LONG.build(), {"numbers": "1"}, "string").metadata["numbers"] == "1"


# (name, changes, type, words that the refusal must have); the file is V3.small().
REFUSED: list[tuple[str, Changes, str | None, tuple[str, ...]]] = [
    ("new without a type", {"new": "1"}, None, ("new: is a new key", "--type")),
    ("no such key", {"new": None}, None, ("new: no such key",)),
    ("no such type", {"new": "1"}, "u128", ("u128: no such type",)),
    ("array of arrays", {"new": "[[1]]"}, "u8[][]", ("u8[][]: no such type",)),
    ("no name", {"": "1"}, "u8", ("1 to 65535 bytes",)),
    ("long name", {"k" * 65536: "1"}, "u8", ("1 to 65535 bytes",)),
    ("lone surrogate", {"new": "\ud800"}, "string", ("new", "UTF-8")),
    ("surrogate in the name", {"\ud800": "x"}, "string", ("UTF-8",)),
    ("steers", {"\x1b[2J": None}, None, ("\\x1b[2J: no such key",)),
    ("alignment", {"general.alignment": "64"}, "u32", ("general.alignment", "they stay there")),
    ("pad", {PAD: "x"}, "string", (PAD, "they stay there")),
    ("architecture", {"general.architecture": "x"}, None, ("general.architecture", "--force")),
    ("unset architecture", {"general.architecture": None}, None, ("general.architecture", "--force")),
    ("shape", {"small.block_count": "9"}, None, ("small.block_count", "--force")),
    ("shape that is new", {"small.attention.head_count": "9"}, "u32", ("small.attention.head_count", "--force")),
    ("split", {"split.count": "2"}, "u16", ("split.count", "--force")),
    ("tokens", {"tokenizer.ggml.tokens": None}, None, ("tokenizer.ggml.tokens", "--force")),
    ("text for a number", {"small.epsilon": "x"}, None, ("small.epsilon: found x, allowed FLOAT32",)),
    ("NaN", {"small.epsilon": "NaN"}, None, ("small.epsilon: found nan, allowed FLOAT32",)),
    ("infinity", {"small.epsilon": "1e999"}, None, ("found inf",)),
    ("beyond float32", {"small.epsilon": "1e39"}, None, ("found 1e+39",)),
    ("bool for a number", {"small.epsilon": "true"}, None, ("found True, allowed FLOAT32",)),
    ("number for a bool", {"small.flag": "1"}, None, ("small.flag: found 1, allowed BOOL",)),
    ("too large", {"new": "256"}, "u8", ("found 256, allowed UINT8",)),
    ("negative", {"new": "-1"}, "u64", ("found -1, allowed UINT64",)),
    ("too small", {"new": "-129"}, "i8", ("found -129, allowed INT8",)),
    ("float for an integer", {"new": "1.0"}, "i32", ("found 1.0, allowed INT32",)),
    ("5000 digits", {"new": "1" * 5000}, "u64", ("allowed UINT64",)),
    ("deep", {"new": "[" * 100_000}, "u8[]", ("allowed a JSON array of UINT8",)),
    ("no array", {"small.numbers": "1"}, None, ("small.numbers: found 1, allowed a JSON array of INT32",)),
    ("numbers for text", {"small.words": "[1]"}, None, ("small.words: found 1, allowed STRING",)),
    ("null", {"new": "null"}, "u8", ("found None, allowed UINT8",)),
]


@pytest.mark.parametrize(("changes", "kind", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(changes: Changes, kind: str | None, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        moved(edited(tmp_path / "f", V3.small(), changes, kind), changes)
    assert all(word in str(caught.value) for word in words) and str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_header_larger_than_any_that_is_read_is_not_made(tmp_path: Path) -> None:
    changes = {"general.name": "x" * (64 << 20)}
    header = edited(tmp_path / "f", LONG.build(), changes)
    with pytest.raises(RefusedError, match="a header of"):
        moved(header, changes)


def test_gguf_py_reads_what_is_edited(tmp_path: Path) -> None:
    data = llama().build()
    changes = {"general.name": "Another name, much longer than the first one was", "general.tags": '["a", "b"]'}
    header = edited(tmp_path / "f", data, {"general.name": changes["general.name"]})
    header = changed(header, {"general.tags": changes["general.tags"]}, "string[]")
    (tmp_path / "g").write_bytes(moved(header, changes) + data[header.data_offset :])
    reader, before = gguf_py.GGUFReader(tmp_path / "g"), gguf_py.GGUFReader(tmp_path / "f")
    assert reader.fields["general.name"].contents() == changes["general.name"]
    assert reader.fields["general.tags"].contents() == ["a", "b"]
    assert list(reader.fields)[-1] == PAD and set(reader.fields[PAD].contents()) == {" "}
    assert [(t.name, t.data.tobytes()) for t in reader.tensors] == [(t.name, t.data.tobytes()) for t in before.tensors]
