"""The table of formats: a path finds its format by content, and what has none is called by its name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from converters.errors import MalformedError, MissingError, UnsafeError, UnsupportedError
from converters.formats import FORMATS, open_checkpoint
from tests.fakes import gguf_bytes, tiny_llama


def test_a_names_ending_means_nothing(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path)
    (folder / "model.safetensors").rename(folder / "weights.gguf")
    with open_checkpoint(folder / "weights.gguf") as checkpoint:
        assert checkpoint.format == "safetensors"


OTHERS = [
    (b"", "an empty file"),
    (b"hello, I am a model", "a file that begins with b'hello, I'"),
    (b"<html>", "an HTML page"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b'{"a": 1}', "JSON text"),
]


@pytest.mark.parametrize(("data", "found"), OTHERS, ids=[case[1][:16] for case in OTHERS])
def test_what_no_format_knows_is_called_by_its_name(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedError) as caught:
        open_checkpoint(path)
    assert str(caught.value.found).startswith(found)
    assert caught.value.allowed == "ggml, gguf, meta, huggingface"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"algg\x01\x00\x00\x00", "found GGLA, an adapter, allowed a whole model"),
        (b"nsgg\x01\x00\x00\x00", "found GGSN, a saved session, allowed a whole model"),
        (b"ggjt\x00\x00\x00\x03", "found b'ggjt', allowed b'tjgg'"),
        (b"tjgg\x04\x00\x00\x00", "version at 4: found 4, allowed version 1 or 2 or 3"),
    ],
)
def test_relatives_of_what_is_older_than_gguf_get_advice(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(path)


def test_bytes_behind_a_gguf_are_left_alone_if_somebody_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes.llama().build() + b"PK\x05\x06" + bytes(18))
    with pytest.raises(MalformedError, match="22 bytes after the last tensor"):
        open_checkpoint(path)
    open_checkpoint(path, allow_trailing=True).close()


def test_nothing_and_an_empty_folder_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="a checkpoint to read was expected here"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(MissingError, match=r"config\.json: not found"):
        open_checkpoint(tmp_path)


def test_a_fifo_answers_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(MalformedError, match="found no regular file"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_link_to_itself_is_not_there(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(name)
    with pytest.raises(MissingError):
        open_checkpoint(tmp_path)


def test_a_long_path_is_shown_whole(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["models--owner--a-name-that-says-what-is-in-it"] * 4)
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(MalformedError, match=r"/model\.gguf: header at 4: "):
        open_checkpoint(folder / "model.gguf")


@pytest.mark.parametrize("known", FORMATS, ids=[known.NAME for known in FORMATS])
def test_sniffing_never_raises(tmp_path: Path, known: object) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "short").write_bytes(b"\x80")
    for path in (tmp_path, *tmp_path.iterdir(), tmp_path / "nothing"):
        assert known.sniff(path) is False  # type: ignore[attr-defined]


class Attack:
    def __reduce__(self) -> object:
        return (print, ("never",))


def test_code_in_weights_is_the_first_thing_said(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(UnsafeError, match=r"found builtins\.print"):
        open_checkpoint(path)
