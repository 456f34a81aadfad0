"""The page: well formed, self-contained, and deaf to what names in files say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distro.inspect.inspection import inspect
from distro.inspect.inspection_page import page
from tests.fakes import gguf_bytes, tiny_llama
from tests.fakes.gguf_bytes import string, tensor

TRAP = "<script>alert(1)</script>\"'&\x1b]0;x\x07\u202e"


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def _elements(text: str) -> _Elements:
    elements = _Elements()
    elements.feed(text)
    return elements


def _body(text: str) -> ET.Element:
    """The page as XML, which it is but for the first line."""
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314  our own


def _text(element: ET.Element) -> str:
    return "".join(element.itertext())


def test_a_real_model(smollm2_gguf: Path) -> None:
    text = page(inspect(smollm2_gguf, name="smollm2"))
    root = _body(text)
    assert _text(next(root.iter("h1"))) == "smollm2"
    assert [_text(each) for each in root.iter("h2")] == ["Types", "Layer by layer", "Outside the layers"]
    (types,) = [each for each in root.iter("table") if "bits per weight" in _text(each)]
    assert [_text(cell) for cell in list(types.iter("tr"))[1].iter("td")] == [
        "Q4_1", "5", "210", "106,168,320", "66.4 MB", "68.7 %",
    ]  # fmt: skip
    labels = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text") if each.attrib["class"] == "label"]
    assert labels == [*(f"layer {i}" for i in range(30)), "token_embd.weight", "output_norm.weight"]
    assert [_text(each) for each in root.iter("summary")] == ["Keys (33)", "Tensors (272)"]
    assert len(text) < 300_000


def test_nothing_comes_from_outside(smollm2_gguf: Path) -> None:
    text = page(inspect(smollm2_gguf, name="smollm2"))
    found = _elements(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert not {"src", "href", "action", "onload", "onclick"} & {name for name, _ in found.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert ("http-equiv", "Content-Security-Policy") in found.attributes


def test_names_of_a_file_are_text(tmp_path: Path) -> None:
    data = replace(
        gguf_bytes.SMALL,
        keys=(string("general.architecture", TRAP), string("general.name", TRAP), string(TRAP, TRAP)),
        tensors=(tensor(TRAP, (4, 2), 0, 0), tensor(f"blk.0.{TRAP}", (32,), 8, 32)),
    ).build()
    (tmp_path / "x.gguf").write_bytes(data)
    text = page(inspect(tmp_path / "x.gguf", name=TRAP))
    assert "<script" not in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "script" not in _elements(text).tags
    assert "<script>alert(1)</script>" in _text(next(_body(text).iter("h1")))
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8


def test_a_note_comes_first(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf_bytes.SMALL.build())
    root = _body(page(inspect(tmp_path / "x.gguf", name="x")))
    (note,) = [each for each in root.iter("p") if each.attrib.get("class") == "note"]
    assert _text(note).startswith("cannot be converted: ")
    assert _text(note).endswith("general.architecture: found small, allowed llama")


def test_files_are_listed_where_there_are_several(tmp_path: Path) -> None:
    root = _body(page(inspect(tiny_llama.write(tmp_path, container="safetensors-sharded"), name="x")))
    assert "Files (3)" in [_text(each) for each in root.iter("summary")]


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf_bytes.llama({}).build())
    root = _body(page(inspect(tmp_path / "x.gguf", name="x")))
    assert list(root.iter("h2")) == []


def test_endless_tables_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distro.inspect.inspection_page._MOST_ROWS", 3)
    root = _body(page(inspect(tiny_llama.write(tmp_path), name="x")))
    assert "Tensors (21, the first 3 of them; --json has all)" in [_text(each) for each in root.iter("summary")]
