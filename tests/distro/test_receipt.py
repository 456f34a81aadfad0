"""Receipts: the same bytes for the same facts, and nothing believed that breaks the rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distro.errors import MalformedManifestError, exit_code
from distro.receipt import Entry, Receipt, now

SHA = "0123456789abcdef" * 4
RECEIPT = Receipt(
    model="m", variant="v", format="gguf",
    files={
        "b.bin": Entry(SHA, 2, "hub owner/name", "2026-01-31T12:00:00Z"),
        "a/ü.txt": Entry(SHA, 0, "folder /x", "2026-01-31T12:00:01Z", proven=False),
    },
    recipe={"type": "q8_0"}, inputs={"model.safetensors": SHA},
)  # fmt: skip
TEXT = """{
  "schema": 1,
  "model": "m",
  "variant": "v",
  "format": "gguf",
  "files": {
    "a/ü.txt": {
      "sha256": "%(sha)s",
      "size": 0,
      "source": "folder /x",
      "time": "2026-01-31T12:00:01Z",
      "proven": false
    },
    "b.bin": {
      "sha256": "%(sha)s",
      "size": 2,
      "source": "hub owner/name",
      "time": "2026-01-31T12:00:00Z",
      "proven": true
    }
  },
  "recipe": {
    "type": "q8_0"
  },
  "inputs": {
    "model.safetensors": "%(sha)s"
  }
}
"""


def test_written_out() -> None:
    assert RECEIPT.to_bytes().decode() == TEXT % {"sha": SHA}
    assert RECEIPT.size == 2


def test_read_back(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_bytes(RECEIPT.to_bytes())
    assert Receipt.read(tmp_path / "receipt.json") == RECEIPT
    assert Receipt.read(tmp_path / "none.json") is None
    assert Receipt.read(tmp_path / "receipt.json" / "below") is None


def test_what_has_not_come_yet(tmp_path: Path) -> None:
    receipt = replace(RECEIPT, missing=("b.json", "a.json"))
    assert b'  "missing": [\n    "a.json",\n    "b.json"\n  ],\n  "recipe"' in receipt.to_bytes()
    (tmp_path / "receipt.json").write_bytes(receipt.to_bytes())
    assert Receipt.read(tmp_path / "receipt.json") == replace(RECEIPT, missing=("a.json", "b.json"))


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,2}", fullmatch=True).filter(
    lambda path: not any(part.startswith(("con", "prn", "aux", "nul", "com", "lpt")) for part in path.split("/"))),
    st.integers(0, 2**63 - 1), max_size=5))  # fmt: skip
def test_any_receipt_survives_the_round_trip(sizes: dict[str, int]) -> None:
    import tempfile

    files = {path: Entry(SHA, size, "somewhere", now()) for path, size in sizes.items()}
    receipt = Receipt("m", "v", "safetensors", files)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receipt.json"
        path.write_bytes(receipt.to_bytes())
        assert Receipt.read(path) == receipt


def test_lists_of_piece_hashes_and_sources_are_written_where_there_are_any(tmp_path: Path) -> None:
    entry = Entry(SHA, 2, "hub", "2026-01-31T12:00:00Z", pieces="f" * 64)
    receipt = Receipt("m", "v", "gguf", {"a": entry}, sources=("hf:owner/name@main", "magnet:?xt=urn:btih:x"))
    (tmp_path / "receipt.json").write_bytes(receipt.to_bytes())
    assert Receipt.read(tmp_path / "receipt.json") == receipt
    value = json.loads(receipt.to_bytes())
    assert value["files"]["a"]["pieces"] == "f" * 64
    assert value["sources"] == ["hf:owner/name@main", "magnet:?xt=urn:btih:x"]
    assert receipt.as_variant()[1].sources == receipt.sources


def test_an_address_with_a_secret_is_not_written_down() -> None:
    sources = ("https://host/m/", "https://me:secret@host/m/", "https://host/m?token=secret", "http://a/b?x")
    assert json.loads(Receipt("m", "v", "gguf", {}, sources=sources).to_bytes())["sources"] == ["https://host/m/"]


def _set(*where: str, value: object) -> Callable[[dict[str, Any]], None]:
    def mutate(top: dict[str, Any]) -> None:
        for key in where[:-1]:
            top = top[key]
        top[where[-1]] = value

    return mutate


def _drop(*where: str) -> Callable[[dict[str, Any]], None]:
    def mutate(top: dict[str, Any]) -> None:
        for key in where[:-1]:
            top = top[key]
        del top[where[-1]]

    return mutate


BAD = [
    ("another version", _set("schema", value=2), "schema"),
    ("a version that is true", _set("schema", value=True), "schema"),
    ("no model", _drop("model"), "receipt"),
    ("an empty model", _set("model", value=""), "model"),
    ("an unknown key", _set("extra", value=1), "receipt"),
    ("files as a list", _set("files", value=[]), "files"),
    ("a climbing path", _set("files", "../x", value={}), "files/../x"),
    ("an absolute path", _set("files", "/x", value={}), "files//x"),
    ("a file that is a number", _set("files", "b.bin", value=1), "files/b.bin"),
    ("a short digest", _set("files", "b.bin", "sha256", value="ab"), "files/b.bin/sha256"),
    ("a digest in capitals", _set("files", "b.bin", "sha256", value="A" * 64), "files/b.bin/sha256"),
    ("a negative size", _set("files", "b.bin", "size", value=-1), "files/b.bin/size"),
    ("a size of 2^63", _set("files", "b.bin", "size", value=2**63), "files/b.bin/size"),
    ("a size with a point", _set("files", "b.bin", "size", value=2.0), "files/b.bin/size"),
    ("a size that is true", _set("files", "b.bin", "size", value=True), "files/b.bin/size"),
    ("a time of words", _set("files", "b.bin", "time", value="yesterday"), "files/b.bin/time"),
    ("proven by a word", _set("files", "b.bin", "proven", value="yes"), "files/b.bin/proven"),
    ("no source", _drop("files", "b.bin", "source"), "files/b.bin"),
    ("inputs without digests", _set("inputs", "x", value="y"), "inputs"),
    ("pieces of a word", _set("files", "b.bin", "pieces", value="yes"), "files/b.bin/pieces"),
    ("pieces of nothing", _set("files", "b.bin", "pieces", value=None), "files/b.bin/pieces"),
    ("sources as a text", _set("sources", value="hf:a/b"), "sources"),
    ("a source that is a number", _set("sources", value=[1]), "sources"),
    ("a recipe of a word", _set("recipe", value="q8_0"), "recipe"),
]


@pytest.mark.parametrize(("mutate", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_breaks_the_rules(tmp_path: Path, mutate: Callable[[dict[str, Any]], None], field: str) -> None:
    value = json.loads(RECEIPT.to_bytes())
    mutate(value)
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(value))
    with pytest.raises(MalformedManifestError) as caught:
        Receipt.read(path)
    assert caught.value.field == field
    assert exit_code(caught.value) == 65


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1, "schema": 1}', b"[" * 100_000, b'{"schema": NaN}'],
)
def test_what_is_no_receipt_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(data)
    with pytest.raises(MalformedManifestError):
        Receipt.read(path)


def test_a_receipt_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    data = RECEIPT.to_bytes().rstrip()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(MalformedManifestError):
            Receipt.read(path)


def test_a_receipt_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    with path.open("wb") as stream:
        stream.truncate(65 * 1024 * 1024)
    with pytest.raises(MalformedManifestError, match="more than"):
        Receipt.read(path)
