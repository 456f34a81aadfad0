"""`inspect` on files that lie: the verdict of the other commands, in one line; what they merely cannot use is shown."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from tests import test_hostile_files as files
from tests.fakes import hostile, tiny_llama

# Well formed, and no model that we open: the number, the architecture and the tokenizer stand in the note.
SHOWN = {"epsilon NaN", "an architecture that steers", "a tokenizer that steers"}


@functools.cache
def usual() -> frozenset[tuple[str, str]]:
    """What `inspect` does with good files, once all is imported."""
    hostile.usual()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "model.gguf").write_bytes(files.GOOD_GGUF)
        (base / "model.bin").write_bytes(files.GOOD_BIN)
        commands = [
            ("inspect", str(base / each), "--html", str(base / "page.html")) for each in ("model.gguf", "model.bin")
        ]
        hostile.machine().load(name for command in commands for name in hostile.run(base, *command).imported())
        ran = [hostile.run(base, *command) for command in commands]
    assert [each.code for each in ran] == [0, 0], ran
    return frozenset().union(*(each.did() for each in ran))


def _judge(base: Path, path: Path, code: int, words: tuple[str, ...]) -> None:
    expected = usual()
    before = hostile.Tree.of(base / "in")
    ran = hostile.run(base, "inspect", str(path), "--html", str(base / "page.html"))
    if code:
        hostile.judge(ran, code, *words)
        assert not (base / "page.html").exists()
    else:
        assert ran.code == 0, ran
        page = (base / "page.html").read_text()
        assert all(word in page for word in words)
        assert hostile.is_plain(page)
        assert "<script" not in page
    assert ran.did() <= expected, ran.did() - expected
    assert not ran.imported(), ran.imported()
    assert hostile.Tree.of(base / "in") == before


@pytest.mark.parametrize(("name", "data", "words"), files.GGUF_CASES, ids=[case[0] for case in files.GGUF_CASES])
def test_a_gguf_file_that_lies(tmp_path: Path, name: str, data: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "in" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(data)
    _judge(tmp_path, path, 0 if name in SHOWN else 65, words)


@pytest.mark.parametrize(
    ("data", "words"), [case[1:] for case in files.SAFETENSORS_CASES], ids=[case[0] for case in files.SAFETENSORS_CASES]
)
def test_a_safetensors_file_that_lies(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    (folder / "model.safetensors").write_bytes(data)
    _judge(tmp_path, folder, 65, ("model.safetensors", *words))


@pytest.mark.parametrize(
    ("data", "code", "words"), [case[1:] for case in files.PICKLE_CASES], ids=[case[0] for case in files.PICKLE_CASES]
)
def test_a_pytorch_file_that_lies(tmp_path: Path, data: bytes, code: int, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in", container="bin")
    (folder / "pytorch_model.bin").write_bytes(data)
    _judge(tmp_path, folder, code, ("pytorch_model.bin", *words))
    assert not list(tmp_path.rglob("owned"))
