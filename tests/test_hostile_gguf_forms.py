"""GGUF of old versions, of the other byte order and in shards that lies, end to end: the same verdict of every command.

One case a rule; the hundreds of siblings are in tests/converters/test_gguf_dialect.py and test_gguf_shards.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import hostile
from tests.fakes.gguf_bytes import LLAMA_SHAPES
from tests.fakes.gguf_forms import V1, V3, V3_BIG, Form

TRAP = "\x1b]0;owned\x07\u202etxt"


def with_key(form: Form, entry: bytes) -> bytes:
    return form.llama([*form.llama_keys(), entry])


ONE_FILE = [
    ("v1, version alone", V1.llama()[:8], ("header at 8",)),
    ("v1, counts cut", V1.llama()[:15], ("header at 15",)),
    ("v1, 2^32-1 keys", V1.file(V1.llama_keys(), [], b"", n_kv=2**32 - 1), ("n_kv at 12", "4294967295")),
    ("v1, 2^32-1 letters", with_key(V1, V1.key("x", 8, V1.text("", 2**32 - 1))), ("x.length",)),
    ("v1, a key that steers", with_key(V1, V1.key(TRAP, 13, b"")), ("key[15].type", "\\x1b]0;owned")),
    ("v1, last byte missing", V1.llama()[:-1], ("output.weight", "1 of")),
    ("v1, a tail", V1.llama() + b"\0", ("trailing bytes",)),
    ("big, 2^64-1 tensors", V3_BIG.file([], [], b"", n_tensors=2**64 - 1), ("n_tensors at 8", "18446744073709551615")),
    ("big, little inside", V3_BIG.llama()[:8] + V3.llama()[8:], ("n_tensors at 8",)),
    ("big, a bool of 2", with_key(V3_BIG, V3_BIG.key("x", 7, b"\2")), ("x", "found 2")),
    ("big, no layers", V3_BIG.llama([V3_BIG.uint32("llama.block_count", 0) if b"block_count" in key else key
                                     for key in V3_BIG.llama_keys()]), ("llama.block_count",)),
    ("big, cut", V3_BIG.llama()[:-1], ("output.weight", "1 of")),
    ("a shard by another name", V3.shards()[0], ("split.count", "a shard of 3")),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in ONE_FILE], ids=[case[0] for case in ONE_FILE])
def test_a_file_that_lies(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "in" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(data)
    hostile.refused(tmp_path, path, 65, "model.gguf", *words)
    if words[0] != "llama.block_count" and words[0] != "split.count":  # splitting and editing look at no model
        for command in (
            ("gguf", "set", str(path), "general.name=x"),
            ("gguf", "split", str(path), "--tensors", "2", "-o", str(tmp_path / "out" / "shards")),
            ("gguf", "merge", str(path), "-o", str(tmp_path / "out" / "o.gguf")),
        ):
            hostile.judge(hostile.run(tmp_path, *command), 65, "model.gguf", *words)
            assert path.read_bytes() == data
            assert list((tmp_path / "out").iterdir()) == []


def second(keys: list[bytes], start: int = 5) -> bytes:
    return V3.llama(keys, dict(list(LLAMA_SHAPES.items())[start:9]))


# (name, what becomes of the three shards, exit code, words)
Spoil = Callable[[list[Path]], object]
SHARDS: list[tuple[str, Spoil, int, tuple[str, ...]]] = [
    ("number repeated", lambda paths: paths[1].write_bytes(second(V3.split_keys(0, 3, 12))), 65,
     ("00002-of-00003.gguf: split.no", "found 0, allowed 1")),
    ("count of 65535", lambda paths: paths[0].write_bytes(V3.llama([*V3.llama_keys(), *V3.split_keys(0, 65535, 12)])),
     65, ("00001-of-00003.gguf: split.count", "65535")),
    ("count of 0", lambda paths: paths[0].write_bytes(
        V3.llama([*V3.llama_keys(), *V3.split_keys(0, 0, 12)], dict(list(LLAMA_SHAPES.items())[:5]))), 65,
     ("00001-of-00003.gguf: split.tensors.count",)),
    ("a tensor in two", lambda paths: paths[1].write_bytes(second(V3.split_keys(1, 3, 12), start=4)), 65,
     ("00002-of-00003.gguf: blk.0.attn_v.weight", "also in")),
    ("another architecture", lambda paths: paths[1].write_bytes(
        second([V3.string("general.architecture", TRAP), *V3.split_keys(1, 3, 12)])), 65,
     ("00002-of-00003.gguf: general.architecture", "\\x1b]0;owned")),
    ("cut", lambda paths: paths[2].write_bytes(paths[2].read_bytes()[:-1]), 65,
     ("00003-of-00003.gguf: output.weight",)),
    ("missing", lambda paths: paths[2].unlink(), 66, ("00003-of-00003.gguf: not found", "of the same model")),
    ("a folder", lambda paths: (paths[2].unlink(), paths[2].mkdir()), 65, ("00003-of-00003.gguf: file", "a folder")),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "code", "words"), [case[1:] for case in SHARDS], ids=[case[0] for case in SHARDS])
def test_shards_that_lie(tmp_path: Path, spoil: Spoil, code: int, words: tuple[str, ...]) -> None:
    paths = [tmp_path / "in" / f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    paths[0].parent.mkdir()
    for path, data in zip(paths, V3.shards(), strict=True):
        path.write_bytes(data)
    spoil(paths)
    hostile.refused(tmp_path, paths[0], code, *words)
    hostile.refused(tmp_path, paths[0].parent, code, *words)
    merged = hostile.run(tmp_path, "gguf", "merge", str(paths[0]), "-o", str(tmp_path / "out" / "o.gguf"))
    hostile.judge(merged, code, *words)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", [V1, V3_BIG])
def test_a_good_file_of_these_forms_is_converted(form: Form, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(form.llama())
    target = tmp_path / "o.gguf"
    ran = hostile.run(
        tmp_path, "convert", str(tmp_path / "model.gguf"), "--quant", "f16", "--no-check", "-o", str(target)
    )
    assert ran.code == 0, ran
    assert target.read_bytes().startswith(b"GGUF\3\0\0\0")
