"""Models laid out in several GGUF files; the bytes of llama-gguf-split's are judged in tests/distro/test_regroup.py."""

from __future__ import annotations

import json
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest

from converters import dtypes
from converters import plan as planning
from converters.convert import convert
from converters.errors import RefusedError
from converters.formats import open_checkpoint
from converters.formats.gguf_shards import open_shards
from converters.formats.gguf_split import groups_by_count, groups_by_size, lay_out_file, lay_out_shards, merge, split
from converters.imatrix import Entry, Imatrix
from converters.recipe import Recipe
from converters.tensors import TensorInfo
from tests.fakes import tiny_llama
from tests.fakes.memory_sink import MemorySink

# 40, 8, 200, 4 and 96 bytes; 64, 32, 224, 32 and 96 with padding.
INFOS = [TensorInfo(name, dtypes.F32, (size,)) for name, size in zip("abcde", (10, 2, 50, 1, 24), strict=True)]


def names(groups: list[list[TensorInfo]]) -> list[str]:
    return ["".join(info.name for info in group) for group in groups]


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [
        (10_000, ["abcde"]),
        (448, ["abcde"]),
        (447, ["abcd", "e"]),
        (352, ["abcd", "e"]),
        (96, ["ab", "c", "d", "e"]),  # c alone has more
        (1, ["a", "b", "c", "d", "e"]),
    ],
)
def test_groups_by_size(max_bytes: int, expected: list[str]) -> None:
    assert names(groups_by_size(INFOS, max_bytes)) == expected


def test_groups_by_count() -> None:
    assert names(groups_by_count(INFOS, 2)) == ["ab", "cd", "e"]
    assert names(groups_by_count(INFOS, 5)) == ["abcde"]
    assert names(groups_by_count([], 5)) == names(groups_by_size([], 5)) == [""]


def test_keys_of_shards() -> None:
    metadata = {"general.architecture": "x", "split.count": np.uint16(0), "n": 1}
    files = lay_out_shards("m", metadata, [INFOS[:2], INFOS[2:]])
    assert [file.path for file in files] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert [[placed.source for placed in file.tensors] for file in files] == [["a", "b"], ["c", "d", "e"]]
    own = b"\x08\0\0\0\0\0\0\0split.no\2\0\0\0%s\0\x13\0\0\0\0\0\0\0split.tensors.count\5\0\0\0\5\0\0\0"
    own += b"\x0b\0\0\0\0\0\0\0split.count\2\0\0\0\2\0"
    assert files[1].head.startswith(b"GGUF\3\0\0\0\3\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0" + own % b"\1")
    assert own % b"\0" in files[0].head and files[0].head.count(b"split.count") == 1
    assert [file.size - len(file.head) for file in files] == [96, 352]


def test_more_shards_than_can_be_opened_are_not_made() -> None:
    with pytest.raises(RefusedError, match="513 shards, allowed at most 512"):
        lay_out_shards("m", {}, [[INFOS[0]]] * 513)


def test_alignment_of_the_keys_is_that_of_the_file() -> None:
    file = lay_out_file("f", {"general.alignment": np.uint32(128)}, INFOS[:2])
    assert [placed.offset_in_file for placed in file.tensors] == [128, 256] and file.size == 384
    first, second = lay_out_shards("m", {"general.alignment": np.uint32(128)}, [INFOS[:2], INFOS[2:4]])
    assert [placed.offset_in_file - len(first.head) for placed in first.tensors] == [0, 128]
    assert [placed.offset_in_file - len(second.head) for placed in second.tensors] == [0, 224]


def made(folder: Path, recipe: Recipe, imatrix: Imatrix | None = None) -> dict[str, bytes]:
    sink = MemorySink()
    with open_checkpoint(folder) as checkpoint:
        plan = planning.make(checkpoint, recipe, "tiny", imatrix, made_by="a test")
        convert(checkpoint, plan, sink, known=plan.known_inputs)
    return sink.files


@pytest.mark.parametrize("order", [None, "big"])
def test_conversion_into_shards(order: str | None, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    whole = made(source, Recipe("gguf", "q8_0", byte_order=order))
    shards = made(source, Recipe("gguf", "q8_0", max_shard_bytes=12_000, byte_order=order))

    assert list(shards) == [f"tiny-Q8_0-0000{number}-of-00004.gguf" for number in (1, 2, 3, 4)]
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, data in shards.items():
        (folder / name).write_bytes(data)
    (tmp_path / "whole.gguf").write_bytes(whole["tiny-Q8_0.gguf"])
    reader = gguf_py.GGUFReader(tmp_path / "whole.gguf")
    theirs = {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}
    readers = [gguf_py.GGUFReader(folder / name) for name in shards]
    assert {tensor.name: tensor.data.tobytes() for each in readers for tensor in each.tensors} == theirs
    assert [each.fields["split.no"].contents() for each in readers] == [0, 1, 2, 3]
    assert [len(each.fields) for each in readers[1:]] == [6, 6, 6]  # three that gguf-py makes up, and split.*
    opened = open_shards(folder / list(shards)[2])
    assert sum(len(shard.header.tensors) for shard in opened) == len(theirs)
    for shard in opened:
        shard.file.close()
    # But for the recipe, which asks for shards, the keys are those of the one file.
    said = {name: field.contents() for name, field in readers[0].fields.items() if not name.startswith("GGUF.")}
    expected = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert json.loads(said.pop("provenance.recipe"))["max_shard_bytes"] == 12_000
    del expected["provenance.recipe"]
    assert {name: value for name, value in said.items() if not name.startswith("split.")} == expected


def test_what_fits_into_one_file_is_one_file(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    (name,) = made(source, Recipe("gguf", "q8_0", max_shard_bytes=10**9))
    assert name == "tiny-Q8_0.gguf"


def test_split_and_merge_are_laid_out_as_the_file_was(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    ((name, data),) = made(source, Recipe("gguf", "f16")).items()
    (tmp_path / name).write_bytes(data)
    shards = open_shards(tmp_path / name)
    infos = [info for info, _ in shards[0].header.tensors]
    for index, file in enumerate(split(shards, "s", groups_by_count(infos, 8))):
        (tmp_path / file.path).write_bytes(file.head.ljust(file.size, b"\0"))
        assert len(file.tensors) == (8, 8, 5)[index]
    again = open_shards(tmp_path / "s-00003-of-00003.gguf")

    file = merge(again, "m.gguf")
    kept = merge(again, "m.gguf", keep_split_keys=True)

    assert (file.size, file.head) == (len(data), data[: len(file.head)])
    assert kept.head.count(b"split.") == 3 and kept.head.count(b"split.count\2\0\0\0\0\0") == 1
    for shard in (*shards, *again):
        shard.file.close()


def test_importance_matrix_is_named_as_llama_quantize_names_it(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    entries = {
        f"blk.{layer}.{role}.weight": Entry(np.ones((1, 64 if role == "ffn_down" else 32), np.float32), np.array([9]))
        for layer in range(2)
        for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    imatrix = Imatrix(entries, ("wiki", "more"), 7, 512, Path("/a/b/im.gguf"), "0" * 64)
    ((name, data),) = made(source, Recipe("gguf", "q4_0", imatrix=imatrix.sha256), imatrix).items()
    (tmp_path / name).write_bytes(data)
    fields = gguf_py.GGUFReader(tmp_path / name).fields
    assert {key: field.contents() for key, field in fields.items() if key.startswith("quantize.")} == {
        "quantize.imatrix.file": "im.gguf",
        "quantize.imatrix.dataset": "wiki",
        "quantize.imatrix.entries_count": 14,
        "quantize.imatrix.chunks_count": 7,
    }
    assert fields["quantize.imatrix.chunks_count"].types == [gguf_py.GGUFValueType.UINT32]
    keys = [key for key in fields if key.startswith(("general.quant", "quantize.", "provenance."))]
    assert keys[0] == "general.quantization_version" and keys[-1] == "provenance.inputs"
    assert Imatrix(entries).keys() == {"quantize.imatrix.file": "", "quantize.imatrix.entries_count": 14}
