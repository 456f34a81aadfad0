from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distro import memory
from tests.fakes import gguf_bytes, tiny_llama
from tests.fakes.command import run
from tests.fakes.gguf_bytes import string, tensor
from tests.fakes.hub import serving
from tests.fakes.store import put

TRAP = "\x1b]0;owned\x07\u202e<b>"


@pytest.fixture(autouse=True)
def eight_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 8_000_000_000)


def _gguf(folder: Path, data: bytes | None = None) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(gguf_bytes.llama().build() if data is None else data)
    return path


def test_the_page_for_people(tmp_path: Path) -> None:
    outcome = run(tmp_path, "inspect", str(_gguf(tmp_path)))
    assert outcome.code == 0
    assert (
        outcome.out
        == """\
format        gguf v3, little-endian, aligned to 32; 1 file, 41.0 kB, of which headers 1.7 kB
name          Tiny
licence       apache-2.0
architecture  llama: 1 layers, dim 32, 2 heads (1 for keys and values) of 16, hidden 64, context 64, rope 10000
weights       9,824 in 12 tensors, 39.3 kB, 32.00 bits each
tokenizer     byte-level BPE (smollm), 8 tokens
tokens        ends </s> (7)
memory        39.3 kB of weights, 4.1 kB for 64 tokens; fits here

type  bits  tensors  weights     size
F32     32       12    9,824  39.3 kB
"""
    )


def test_tensors_and_keys(tmp_path: Path) -> None:
    path = str(_gguf(tmp_path))
    lines = run(tmp_path, "inspect", path, "--tensors").out.splitlines()
    assert lines[0].split() == ["tensor", "type", "shape", "bytes", "offset", "file"]
    assert lines[1].split() == ["token_embd.weight", "F32", "8x32", "1024", "1696", "m.gguf"]
    assert len(lines) == 13
    lines = run(tmp_path, "inspect", path, "--keys").out.splitlines()
    assert lines[1].split(maxsplit=2) == ["general.architecture", "STRING", "llama"]
    assert [line.split(maxsplit=4)[-1] for line in lines if "ggml.tokens" in line] == ["8: <s>, a, b, c, …"]
    both = run(tmp_path, "inspect", path, "--keys", "--tensors").out
    assert "general.architecture" in both
    assert "token_embd.weight" in both


def test_for_programs(tmp_path: Path) -> None:
    answer = run(tmp_path, "inspect", str(_gguf(tmp_path)), "--json").json
    assert answer["schema"] == "distro-inspect/1"
    assert answer["architecture"] == "llama"
    assert len(answer["tensors"]) == 12


def test_a_page_is_written(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    outcome = run(tmp_path, "inspect", str(_gguf(tmp_path)), "--html", str(target))
    assert (outcome.code, outcome.out) == (0, f"{target}\n")
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert run(tmp_path, "inspect", str(tmp_path / "m.gguf"), "--html", str(target), "--json").json["n_weights"] == 9824


def test_no_page_is_written_into_the_store(tmp_path: Path) -> None:
    target = tmp_path / "home" / "page.html"
    outcome = run(tmp_path, "inspect", str(_gguf(tmp_path)), "--html", str(target))
    assert outcome.code == 2
    assert "is in the store" in outcome.error
    assert not target.parent.exists()


def test_what_is_no_model_is_shown_with_a_note(tmp_path: Path) -> None:
    outcome = run(tmp_path, "inspect", str(_gguf(tmp_path, gguf_bytes.SMALL.build())))
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1].startswith("note: cannot be converted: ")
    assert outcome.out.splitlines()[-1].endswith("general.architecture: found small, allowed llama")


def test_text_of_files_does_not_steer(tmp_path: Path) -> None:
    data = replace(
        gguf_bytes.SMALL,
        keys=(string("general.architecture", TRAP), string("general.name", TRAP), string(TRAP, TRAP)),
        tensors=(tensor(TRAP, (4, 2), 0, 0), tensor("b", (32,), 8, 32)),
    ).build()
    path = str(_gguf(tmp_path, data))
    for arguments in ((), ("--tensors",), ("--keys",)):
        out = run(tmp_path, "inspect", path, *arguments).out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
        assert "\\x1b]0;owned\\x07\\u202e<b>" in out
    # For a pipe, JSON has its own escapes for what steers; what it leaves alone is data.
    answer = run(tmp_path, "inspect", path, "--json")
    assert "\x1b" not in answer.out
    assert answer.json["architecture"] == TRAP


def test_text_of_files_fills_no_terminal(tmp_path: Path) -> None:
    """A megabyte in the place of a name is a line's beginning."""
    data = replace(gguf_bytes.SMALL, keys=(*gguf_bytes.SMALL.keys, string("general.name", "x" * 1_000_000))).build()
    path, page = str(_gguf(tmp_path, data)), tmp_path / "page.html"
    for arguments in ((), ("--keys",), ("--html", str(page))):
        assert len(run(tmp_path, "inspect", path, *arguments).out) < 5000
    assert page.stat().st_size < 100_000
    assert len(run(tmp_path, "inspect", path, "--json").out) > 1_000_000  # for programs, all of it


def test_a_model_of_the_store_has_a_receipt(tmp_path: Path) -> None:
    put(tmp_path / "home", "smollm2-135m-instruct", "q8_0", {"m.gguf": gguf_bytes.llama().build()}, made_here=True)
    lines = run(tmp_path, "inspect", "smollm2-135m-instruct:q8_0").out.splitlines()
    assert "receipt       smollm2-135m-instruct:q8_0, a test" in lines
    answer = run(tmp_path, "inspect", "smollm2-135m-instruct:q8_0", "--json").json
    assert answer["receipt"]["recipe"] == {"target": "gguf"}


def test_a_folder_in_shards_lists_them(tmp_path: Path) -> None:
    lines = run(tmp_path, "inspect", str(tiny_llama.write(tmp_path / "m", container="bin-sharded"))).out.splitlines()
    assert lines[0] == "format        pytorch zip archive of torch.save; 3 files, 159.1 kB, of which headers 11.0 kB"
    assert lines[-1].split()[0] == "pytorch_model-00003-of-00003.bin"


def test_a_model_of_the_hub(tmp_path: Path) -> None:
    with serving() as hub:
        hub.add("them/tiny", {"m.gguf": gguf_bytes.llama().build()})
        outcome = run(tmp_path, "inspect", "hf:them/tiny", hub=hub.url)
        assert outcome.code == 0
        assert (
            f"read          41.0 kB from hub them/tiny@{hub.repos['them/tiny'].commit[:7]}" in outcome.out.splitlines()
        )


@pytest.mark.parametrize(
    ("reference", "code", "message"),
    [
        ("./nothing.gguf", 66, "nothing.gguf: no such file or folder"),
        ("nobody-knows", 66, "nobody-knows: no such model"),
        ("hf:them", 65, "repository"),
        ("hf:them/x:../x", 65, "path: found the component .."),
        ("hf:them/x", 75, "offline"),
        ("https://example.com/x.gguf", 75, "offline"),
        ("https://example.com/x.torrent", 2, "only `distro fetch` can open this"),
        ("magnet:?xt=urn:btih:208b101a0f51514ecf285885a8b0f6fb1a1e4d7d", 66, "not here"),
    ],
)
def test_what_cannot_be_looked_at(tmp_path: Path, reference: str, code: int, message: str) -> None:
    outcome = run(tmp_path, "inspect", reference)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.error


def test_neither_torch_nor_the_network_is_loaded(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['distro', 'inspect', {str(_gguf(tmp_path))!r}, '--json']\n"
        "from distro.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'httpx2', 'huggingface_hub', 'libtorrent', 'tokenizers', 'jinja2', 'llvmlite'}\n"
        "    print('heavy:', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "heavy: []\n"
    assert json.loads(ran.stdout)["n_weights"] == 9824
