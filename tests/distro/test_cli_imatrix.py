"""`distro imatrix` and `distro convert --imatrix` as a user runs them, and what the receipt says afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from converters import imatrix
from converters.imatrix import Imatrix
from converters.recipe import Recipe
from distro.errors import CannotCreateError
from distro.store import Store
from tests.fakes import derived, tiny_llama

TEXT = "the tide comes in twice a day, and nobody has to ask it to.\n" * 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "tide.txt").write_text(TEXT)
    return tiny_llama.write(tmp_path / "tiny")


def distro(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own and in a folder of its own, warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", "from distro.cli import main; main()", *arguments]
    environment = os.environ | {"DISTRO_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


def made(folder: Path, name: str = "made.imatrix", *, seed: float = 1.0) -> Imatrix:
    """A matrix for the tiny llama, without a run."""
    import numpy as np

    columns = {
        "attn_q": 32,
        "attn_k": 32,
        "attn_v": 32,
        "attn_output": 32,
        "ffn_gate": 32,
        "ffn_up": 32,
        "ffn_down": 64,
    }
    entries = {
        f"blk.{layer}.{role}.weight": imatrix.Entry(
            np.geomspace(seed, 1e4, n, dtype=np.float32)[None], np.array([500], np.int64)
        )
        for layer in range(2)
        for role, n in columns.items()
    }
    path = folder / name
    path.write_bytes(imatrix.pack(Imatrix(entries, ("tide.txt",), 1, 500)))
    return imatrix.read(path)


def test_from_a_text_to_a_file_that_is_converted_with(source: Path, tmp_path: Path) -> None:
    answer = distro(tmp_path, "imatrix", "tiny", "--text", "tide.txt", "--chunk", "128")

    assert (answer.returncode, answer.stdout) == (0, "tiny.imatrix.gguf\n")
    chunks, left = answer.stderr.splitlines()[0].split("; ")
    assert chunks.endswith("chunks of 128 tokens") and left.endswith("at the end fill no chunk")
    reader = gguf.GGUFReader(tmp_path / "tiny.imatrix.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["tide.txt"]
    assert len(reader.tensors) == 2 * 2 * 7

    options = ("convert", "tiny", "-t", "q4_0", "--no-check")
    assert distro(tmp_path, *options, "-o", "plain.gguf").returncode == 0
    answer = distro(tmp_path, *options, "-o", "weighed.gguf", "--imatrix", "tiny.imatrix.gguf")
    assert (answer.returncode, answer.stderr) == (0, "not checked\n")
    plain, weighed = (
        {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(tmp_path / name).tensors}
        for name in ("plain.gguf", "weighed.gguf")
    )
    differ = {name for name in plain if plain[name] != weighed[name]}
    assert differ == imatrix.read(tmp_path / "tiny.imatrix.gguf").entries.keys()


def test_json_says_what_was_seen(source: Path, tmp_path: Path) -> None:
    arguments = ("imatrix", "tiny", "--text", "tide.txt", "--chunk", "100", "-o", "x.gguf", "--with-output", "--json")
    answer = distro(tmp_path, "--quiet", *arguments)
    value = json.loads(answer.stdout)
    data = (tmp_path / "x.gguf").read_bytes()
    assert (value["path"], value["size"]) == ("x.gguf", len(data))
    assert value["sha256"] == hashlib.sha256(data).hexdigest()
    n_tokens = value["chunks"] * 100
    assert value["tokens"] - n_tokens in range(100)
    assert value["tensors"]["blk.1.ffn_down.weight"] == {"columns": 64, "tokens": [n_tokens]}
    assert value["tensors"]["output.weight"] == {"columns": 32, "tokens": [n_tokens]}
    assert value["with_few_tokens"] == {}


def test_little_text_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:200])
    answer = distro(tmp_path, "imatrix", "tiny", "--text", "short.txt", "--chunk", "64", "-o", "short.gguf")
    assert answer.stderr.splitlines()[1] == (
        "blk.0.attn_k.weight, blk.0.attn_output.weight, blk.0.attn_q.weight, blk.0.attn_v.weight and 10 more: "
        "fewer than 200 tokens, give more text"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["imatrix", "tiny"], 2, "--text"),
        (["imatrix", "tiny", "--text", "none.txt"], 66, "none.txt: not found"),
        (["imatrix", "tiny", "--text", "tide.txt", "--chunk", "300"], 2, "chunk: found 300 tokens, allowed 1 to"),
        (["imatrix", "tiny", "--text", "tide.txt", "-o", "there"], 73, "there: is there already"),
        (["imatrix", "tiny", "--text", "tide.txt", "-o", "home/x"], 2, "home/x: is in the store"),
        (["convert", "tiny", "-t", "q4_0", "-o", "x", "--imatrix", "tide.txt"], 65, "tide.txt: n_entries at 0: found"),
        (["convert", "tiny", "-t", "f16", "-o", "x", "--imatrix", "made.imatrix"], 2, "f16: plain numbers"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, message: str, source: Path, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "there").write_text("precious")
    answer = distro(tmp_path, *arguments)
    assert answer.returncode == code
    assert message in answer.stderr and "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert (tmp_path / "there").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.imatrix", "there", "tide.txt", "tiny"]


def test_the_receipt_names_the_matrix(source: Path, tmp_path: Path) -> None:
    store, matrix = Store(tmp_path / "home"), made(tmp_path)
    recipe = Recipe("gguf", "q4_0", imatrix=matrix.sha256)

    derived.into_store(store, source, recipe, "tiny", "q4_0", imatrix=matrix)

    receipt = store.receipt("tiny", "q4_0")
    assert receipt is not None and receipt.recipe is not None
    assert receipt.recipe["imatrix"] == matrix.sha256
    assert receipt.inputs.keys() == {"imatrix/made.imatrix", *(path.name for path in source.iterdir())}
    assert receipt.inputs["imatrix/made.imatrix"] == matrix.sha256

    again = derived.into_store(store, source, recipe, "tiny", "q4_0", imatrix=matrix)
    assert again.made_before
    other = made(tmp_path, "other.imatrix", seed=2.0)
    with pytest.raises(CannotCreateError, match="is there already"):
        derived.into_store(store, source, Recipe("gguf", "q4_0", imatrix=other.sha256), "tiny", "q4_0", imatrix=other)
