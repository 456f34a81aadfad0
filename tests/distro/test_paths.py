from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distro.paths import clashing, is_ours, safe_relpath

GOOD = [
    "model.safetensors",
    "7B/consolidated.00.pth",
    "model-00001-of-00002.safetensors",
    ".gitattributes",
    "a/b/c/d",
    "console.txt",
    "COM10.bin",
    "weights (copy).gguf",
    "模型.gguf",
    "café.gguf",
    "a" * 255,
]

BAD = {
    "parent": "../x",
    "absolute": "/etc/passwd",
    "home": "~/x",
    "a home": "~root",
    "climbs inside": "a/../../b",
    "empty component": "a//b",
    "this folder": "./",
    "this folder, then a file": "./x",
    "folder": "a/",
    "empty": "",
    "only dots": "..",
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape sequence": "a\x1b[2Jb",
    "4096 bytes": "/".join(["abcdefg"] * 512),
    "component of 300 bytes": "a" * 300,
    "component of 256 bytes in fewer characters": "é" * 128,
    "1000 folders deep": "/".join(["a"] * 1000),
    "device": "CON",
    "device with a suffix": "aux.txt",
    "device in a folder": "a/nul/b",
    "device with a superscript": "COM¹.log",
    "device before a space": "prn .txt",
    "console": "conout$",
    "trailing dot": "x.",
    "trailing space": "x ",
    "folder with a trailing dot": "x./y",
    "alternate stream": "a:b",
    "drive": "D:x",
    "drive, absolute": "C:\\Windows",
    "backslash": "a\\b",
    "verbatim prefix": "\\\\?\\C:\\x",
    "wildcard": "a*b",
    "right-to-left override": "a\u202egguf.exe",
    "zero-width space": "a\u200bb",
    "zero-width joiner": "a\u200db",
    "byte order mark": "\ufeffa",
    "variation selector": "a\ufe0f",
    "Hangul filler": "\u3164",
    "no-break space": "a\u00a0b",
    "line separator": "a\u2028b",
    "not composed (NFD)": "cafe\u0301",
    "half of a surrogate pair, from bytes that are not UTF-8": b"a\xff".decode("utf-8", "surrogateescape"),
}


@pytest.mark.parametrize("path", GOOD)
def test_a_plain_path_stays_as_it_is(path: str) -> None:
    assert safe_relpath(path) == path


@pytest.mark.parametrize("path", BAD.values(), ids=BAD.keys())
def test_a_path_that_some_system_would_take_for_another_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        safe_relpath(path)


def test_the_reason_names_the_fault() -> None:
    with pytest.raises(ValueError, match=r"^the name of a Windows device$"):
        safe_relpath("models/LPT1.bin")
    with pytest.raises(ValueError, match=r"^a component of 300 bytes, 255 at most$"):
        safe_relpath("a" * 300)


@given(st.text(alphabet=st.sampled_from("aA.~/\\: *\0\n\u202eéCONnul1$"), max_size=30) | st.text(max_size=30))
@example("a/b")
def test_what_passes_stays_below_the_folder_on_every_system(text: str) -> None:
    try:
        path = safe_relpath(text)
    except ValueError:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        joined = kind("base") / path
        assert joined.parts[0] == "base"
        assert joined.parts[1:] == tuple(text.split("/"))
        assert ".." not in joined.parts
    assert not PureWindowsPath(path).is_reserved()
    assert Path("/base", path).resolve().is_relative_to(Path("/base").resolve())


@pytest.mark.parametrize(
    ("paths", "clash"),
    [
        ((), None),
        (("a", "b/a", "c/a"), None),
        (("ab", "a/b"), None),
        (("a", "a"), ("a", "a")),
        (("a", "b", "A"), ("a", "A")),
        (("a", "a/b"), ("a", "a/b")),
        (("a/b/c", "A"), ("A", "a/b/c")),
    ],
)
def test_paths_of_which_some_system_would_make_one(paths: tuple[str, ...], clash: tuple[str, str] | None) -> None:
    assert clashing(paths) == clash


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("receipt.json", True), ("RECEIPT.json", True), ("receipt.json/x", True), (".receipt.json.x", True),
        (".pieces", True), (".Pieces/x", True), (".distro-partial/x", True),
        ("a/receipt.json", False), ("receipt.jsonl", False), (".piecesx", False), ("partial/x", False),
    ],
)  # fmt: skip
def test_names_that_the_store_keeps_for_itself(path: str, ours: bool) -> None:
    assert is_ours(path) is ours
