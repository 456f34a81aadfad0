"""JSON: what the rules let through, and where each broken rule is said to be."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import json_file
from converters.errors import MalformedError, MissingError

BROKEN = [
    ("nothing", b"", "1:1"),
    ("a brace", b"{", "1:2"),
    ("no JSON", b"hello", "1:1"),
    ("an array", b'[{"a": 1}]', "1:1"),
    ("null", b"null", "1:1"),
    ("a number", b"7", "1:1"),
    ("text behind it", b'{"a": 1}\n x', "2:2"),
    ("a comment", b'{\n  // no\n  "a": 1}', "2:3"),
    ("no comma", b'{"a": 1 "b": 2}', "1:9"),
    ("a byte order mark", b'\xef\xbb\xbf{"a": 1}', "1:1"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "1:1"),
    ("UTF-16 without a mark", '{"a": 1}'.encode("utf-16-le"), "1:2"),
    ("Latin-1", b'{\n"a": "caf\xe9"}', "2:10"),
    ("a control character", b'{"a": "\x01"}', "1:8"),
    ("a key twice", b'{"a": 1,\n "b": {"a": 2},\n "a": 1}', "3:2"),
    ("an escaped key twice", b'{"a": 1, "\\u0061": 2}', "1:10"),
    ("a key twice inside", b'{"x": [{"a": 1, "a": 2}]}', "1:17"),
    ("NaN", b'{"a": NaN}', "1:7"),
    ("infinity", b'{"a": [1, -Infinity]}', "1:11"),
    ("a number beyond floats", b'{"a": 1e400}', "1:7"),
    ("a long integer", b'{"a": ' + b"1" * 10_000_000 + b"}", "1:7"),
    ("a long negative integer", b'{"a": -' + b"1" * 101 + b"}", "1:7"),
    ("deep arrays", b'{"a": ' + b"[" * 100_000, "1:70"),
    ("deep objects", b'{"a": ' * 100_000, "1:385"),
    ("a little too deep", b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "1:70"),
    ("half a surrogate pair", b'{"a": "\\ud800"}', "1:7"),
    ("half a pair as a key", b'{"\\udc00": 1}', "1:2"),
]


@pytest.mark.parametrize(("data", "where"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_rule_is_named_with_line_and_column(data: bytes, where: str) -> None:
    with pytest.raises(MalformedError) as caught:
        json_file.parse("config.json", data)
    assert (caught.value.field, caught.value.offset) == ("JSON", where)
    assert str(caught.value).startswith(f"config.json: JSON at {where}: found ")
    assert len(str(caught.value)) < 400


def test_what_keeps_the_rules_is_read() -> None:
    text = b' \n{"a": [1, -0.5, true, null, "\\ud83d\\ude00", "\xc3\xa9", "\\\\ud800"], "b": {"a": {}}}\n'
    assert json_file.parse("x", text) == {"a": [1, -0.5, True, None, "😀", "é", "\\ud800"], "b": {"a": {}}}


def test_transformers_number_for_no_limit_is_read() -> None:
    assert json_file.parse("x", b'{"model_max_length": 1000000000000000019884624838656}') == {
        "model_max_length": 1000000000000000019884624838656
    }


def test_nesting_as_deep_as_allowed_is_read() -> None:
    value = json_file.parse("x", b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")
    for _ in range(64):
        (value,) = value.values() if isinstance(value, dict) else value or [None]
    assert value is None


def test_negative_zero_is_no_integer() -> None:
    assert isinstance(json_file.parse("x", b'{"a": -0}')["a"], float)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=6)))
def test_what_python_writes_is_read_back(value: dict[str, object]) -> None:
    assert json_file.parse("x", json.dumps(value).encode()) == value


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": 1}' + b" " * 92)
    assert json_file.read(path, max_bytes=100) == {"a": 1}
    with pytest.raises(MalformedError) as caught:
        json_file.read(path, max_bytes=99)
    assert (caught.value.field, caught.value.found) == ("file", "100 bytes")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        json_file.read(tmp_path / "config.json", max_bytes=100)


def test_a_fault_behind_a_long_text_is_found_in_little_memory() -> None:
    """The search for it once kept a place to come back to for every letter: 100 bytes each."""
    long = b'{"a": "' + b"x" * 4_000_000 + b'", "b": "' + b"\\n" * 2_000_000 + b'", "c": NaN}'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MalformedError) as caught:
        json_file.parse("x", long)
    assert caught.value.offset == f"1:{long.index(b'NaN') + 1}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,", b'"",'])
def test_more_values_than_any_file_has_are_not_made(value: bytes) -> None:
    data = b'{"a": [' + value * 4_200_000 + b"0]}"
    start = time.process_time()
    with pytest.raises(MalformedError, match=r"JSON: found \d+ commas and brackets, allowed at most 4194304"):
        json_file.parse("x", data)
    assert time.process_time() - start < 1
