"""`distro gguf` as a user runs it: set, unset, split, merge, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from tests.fakes import gguf_bytes

GOOD = gguf_bytes.llama().build()


def distro(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own and in a folder of its own, warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", "from distro.cli import main; main()", "gguf", *arguments]
    environment = os.environ | {"DISTRO_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD)
    return path


def test_set_and_unset(model: Path) -> None:
    folder = model.parent
    assert (
        answer := distro(folder, "set", "model.gguf", "general.name=TINY", "llama.context_length=128")
    ).returncode == 0
    assert (answer.stdout, answer.stderr) == ("model.gguf\n", "1.7 kB written, in place\n")
    answer = distro(
        folder, "set", "model.gguf", 'general.tags=["a", "b=c"]', "--type", "string[]", "-o", "o.gguf", "--json"
    )
    told = json.loads(answer.stdout)
    assert told == {"path": "o.gguf", "in_place": False, "written": (folder / "o.gguf").stat().st_size}
    assert distro(folder, "unset", "o.gguf", "general.license").returncode == 0

    fields = gguf.GGUFReader(folder / "o.gguf").fields
    assert (fields["general.name"].contents(), fields["llama.context_length"].contents()) == ("TINY", 128)
    assert fields["general.tags"].contents() == ["a", "b=c"] and "general.license" not in fields


def test_finish(model: Path) -> None:
    answer = distro(model.parent, "finish", "model.gguf")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "model.gguf\n", "nothing was left to do\n")
    model.write_bytes(b"half-edited GGUF" + GOOD[16:])
    answer = distro(model.parent, "finish", "model.gguf")
    cut_short = "a GGUF file whose edit was cut short; `distro gguf finish` completes it"
    assert (answer.returncode, answer.stdout) == (65, "")
    assert answer.stderr == f"error: model.gguf: header at 0: found {cut_short}, allowed b'GGUF'\n"


def test_split_and_merge(model: Path) -> None:
    folder = model.parent
    answer = distro(folder, "split", "model.gguf", "--tensors", "5", "-o", "shards")
    names = [f"shards/model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert (answer.returncode, answer.stdout.split()) == (0, names)
    answer = distro(folder, "merge", names[1], "-o", "again.gguf", "--json")
    assert json.loads(answer.stdout) == {"path": "again.gguf", "size": len(GOOD)}
    assert (folder / "again.gguf").read_bytes() == GOOD
    answer = distro(folder, "split", "model.gguf", "--size", "10kB", "-o", "sized", "--json")
    files = json.loads(answer.stdout)["files"]
    assert len(files) == 5 and files[0]["size"] == (folder / files[0]["path"]).stat().st_size


REFUSED = [
    (("set", "model.gguf", "general.name"), 2, "general.name: found no =, allowed KEY=VALUE"),
    (("set", "model.gguf", "a=1", "a=2", "--type", "u8"), 2, "a key is given twice"),
    (("set", "model.gguf", "llama.block_count=2"), 2, "llama.block_count: the weights depend on it"),
    (("set", "nothing.gguf", "a=1"), 66, "nothing.gguf: not found"),
    (("unset", "model.gguf", "a\x1b[2J"), 2, "a\\x1b[2J: no such key"),
    (("split", "model.gguf", "-o", "shards"), 2, "say how to split: --size 2GB or --tensors 128"),
    (("split", "model.gguf", "-o", "shards", "--size", "1GB", "--tensors", "2"), 2, "say how to split"),
    (("split", "model.gguf", "-o", "model.gguf", "--tensors", "2"), 73, "model.gguf: is there already"),
    (("merge", "model.gguf", "-o", "model.gguf"), 73, "model.gguf: is there already"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED, ids=[" ".join(row[0][:3]) for row in REFUSED])
def test_refused(arguments: tuple[str, ...], code: int, words: str, model: Path) -> None:
    answer = distro(model.parent, *arguments)
    assert (answer.returncode, answer.stdout) == (code, ""), answer.stderr
    assert words in answer.stderr and answer.stderr.count("\n") == 1
    assert model.read_bytes() == GOOD and [path.name for path in model.parent.iterdir()] == ["model.gguf"]
