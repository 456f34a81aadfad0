"""Releases of Meta's that lie, end to end: shards, params.json, checklists; refused by every command alike."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fakes import hostile, meta_release

TRAP = "\x1b]0;owned\x07\u202etxt"
LAST = "consolidated.03.pth"


class Runs:
    """What pickle makes of an object whose loading runs a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch owned",)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def params(**values: object) -> Callable[[Path], object]:
    changed = meta_release.params("llama-2") | values
    return lambda folder: meta_release.write_json(folder / "params.json", changed)


def with_code(folder: Path) -> None:
    torch.save({"a": Runs()}, folder / LAST, pickle_module=pickle)


def of_another_model(folder: Path) -> None:
    torch.save(meta_release.divided(meta_release.weights("llama-2", seed=1), 4, 1)[3], folder / LAST)


def cut(folder: Path) -> None:
    data = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(data[: len(data) // 2])


CASES: list[tuple[str, Callable[[Path], object], int, tuple[str, ...]]] = [
    ("code in the last shard", with_code, 81, (LAST, "posix.system")),
    ("half a shard", cut, 65, (LAST, "zip")),
    ("a shard of another model", of_another_model, 65, (LAST, "other numbers")),
    ("the last shard missing", lambda folder: (folder / LAST).unlink(), 66, (LAST, "not found")),
    ("a shard missing between", lambda folder: (folder / "consolidated.01.pth").unlink(), 66, ("consolidated.01.pth",)),
    ("the last shard twice", lambda folder: shutil.copy(folder / LAST, folder / "consolidated.04.pth"), 65,
     ("consolidated.04.pth", "one shard more")),
    ("params cut", text("params.json", '{"dim": 64, '), 65, ("params.json", "JSON at 1:")),
    ("a key that steers", params(**{TRAP: 1}), 65, ("params.json", "\\x1b]0;owned")),
    ("a dim that steers", params(dim=TRAP), 65, ("/dim", "\\x1b]0;owned")),
    ("2^62 layers", params(n_layers=2**62), 65, ("/n_layers",)),
    ("a multiplier of 10^300", params(ffn_dim_multiplier=1e300), 65, ("/ffn_dim_multiplier",)),
    ("a width of 2^22 times 10^7", params(multiple_of=1 << 22, ffn_dim_multiplier=1e7), 65, ("feed_forward.w1",)),
    ("experts", params(moe={"num_experts": 8}), 65, ("/moe",)),
    ("a checklist that leads away", text("checklist.chk", "0" * 32 + "  ../../secret\n"), 65, ("checklist.chk", "../")),
    ("a checklist that steers", text("checklist.chk", "0" * 32 + f"  {TRAP}\n"), 65, ("\\x1b]0;owned",)),
    ("a checklist of more", text("checklist.chk", "0" * 32 + "  more.pth\n"), 66, ("more.pth", "checklist.chk")),
    ("a tokenizer that is none", text("tokenizer.model", TRAP), 65, ("tokenizer.model",)),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_release_that_lies(
    tmp_path: Path, change: Callable[[Path], object], code: int, words: tuple[str, ...]
) -> None:
    folder = meta_release.write(tmp_path / "in", n_shards=4)
    for path in folder.glob("*.chk"):
        path.unlink()
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)
    assert not list(tmp_path.rglob("owned"))
