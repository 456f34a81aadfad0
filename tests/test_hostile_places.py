"""What is no file, or another kind of file, in every place of a folder: one verdict of the library and of `inspect`."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.errors import ConversionError
from converters.formats import open_checkpoint
from distro.errors import DistroError, exit_code
from distro.inspect.inspection import inspect
from tests.fakes import gguf_bytes, meta_release, tiny_llama


def bound(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    back = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes
    server.bind(path.name)
    os.chdir(back)
    server.close()


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": bound,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link that leaves": lambda path: path.symlink_to("/etc/passwd"),
    "a terabyte of nothing": sparse,
    "a pickle of code": lambda path: path.write_bytes(pickle.dumps(os.system)),
    "a broken zip": lambda path: path.write_bytes(b"PK\3\4" + bytes(200)),
    "nothing": Path.touch,
    "a page": lambda path: path.write_bytes(b"<!DOCTYPE html>"),
    "a GGUF": lambda path: path.write_bytes(gguf_bytes.llama().build()),
}

# What must be refused, with which code, where it stands in the place of a file that is read.
_READ = dict.fromkeys(KINDS, 65) | {
    "a link to itself": 66, "a link to nowhere": 66, "a link to a device": 81, "a link that leaves": 81,
}  # fmt: skip
_TEXT = _READ | {"nothing": 0, "a page": 0}
# A card is no part of a model; only links that leave are refused.
_CARD = dict.fromkeys(KINDS, 0) | {"a link that leaves": 81, "a link to a device": 0}
HUGGING_FACE = {
    "config.json": _READ, "tokenizer.json": _READ, "tokenizer_config.json": _READ, "special_tokens_map.json": _READ,
    "generation_config.json": _READ, "model.safetensors": _READ, "chat_template.jinja": _TEXT, "README.md": _CARD,
}  # fmt: skip
META = {
    "params.json": _READ, "consolidated.00.pth": _READ | {"a pickle of code": 81}, "tokenizer.model": _READ,
    "tekken.json": _READ, "tokenizer_config.json": _READ, "checklist.chk": _READ | {"nothing": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llama.write(folder / "hf")
    meta_release.write(folder / "meta")
    return folder


def verdict(what: Callable[[], object]) -> tuple[int, str]:
    """Exit code and message; what is no error of ours or of the system is a test that fails."""
    try:
        what()
    except (ConversionError, DistroError, OSError) as error:
        return exit_code(error), str(error)
    return 0, ""


@pytest.mark.parametrize(
    ("model", "name", "codes"),
    [*(("hf", name, codes) for name, codes in HUGGING_FACE.items()), *(("meta", *each) for each in META.items())],
)
def test_what_stands_in_a_place(models: Path, tmp_path: Path, model: str, name: str, codes: dict[str, int]) -> None:
    start = time.process_time()
    for kind, make in KINDS.items():
        folder = tmp_path / kind
        shutil.copytree(models / model, folder)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        code, message = verdict(lambda: open_checkpoint(folder).close())  # noqa: B023
        assert code == codes[kind], (kind, message)
        assert code == 0 or name in message, (kind, message)
        assert message.isprintable()
        looked, again = verdict(lambda: inspect(folder, name="m"))  # noqa: B023
        # What is missed beside sound weights is no fault to `inspect`, which says so in a note.
        assert (looked, again) == (code, message) or (code, looked) == (66, 0), (kind, message, again)
    assert time.process_time() - start < 5


def test_tens_of_thousands_of_other_files_cost_little(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / "hf", folder)
    for number in range(20_000):
        os.close(os.open(folder / f"x{number}.json", os.O_CREAT | os.O_WRONLY))
    start = time.process_time()
    open_checkpoint(folder).close()
    inspect(folder, name="m")
    assert time.process_time() - start < 2


def test_a_hundred_thousand_shards_in_an_index_are_refused_unopened(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / "hf", folder)
    (folder / "model.safetensors").unlink()
    where = {f"t{number}": f"model-{number}.safetensors" for number in range(100_000)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    start = time.process_time()
    assert verdict(lambda: open_checkpoint(folder))[1].endswith("/weight_map: found 100000 shards, allowed at most 512")
    assert time.process_time() - start < 2
