"""A model in several files: any of them opens all of them, and all are judged; files written by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from converters.errors import ConversionError, MalformedError, MissingError, UnsafeError, UnsupportedError
from converters.formats import gguf, open_checkpoint
from converters.formats.gguf_shards import MOST_SHARDS, open_shards, prefix_of, shard_name
from tests.fakes.gguf_bytes import LLAMA_SHAPES
from tests.fakes.gguf_forms import FORMS, V1, V3, V3_BIG, Form, name_of

NAMES = [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def written(folder: Path, files: Sequence[bytes], names: Sequence[str] = NAMES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


def test_names() -> None:
    assert shard_name("a/b", 0, 12) == "a/b-00001-of-00012.gguf"
    assert [prefix_of(name) for name in ("x.gguf", "x-00002-of-00003.gguf", "x-0002-of-0003.gguf", "x")] == [
        "x", "x", "x-0002-of-0003", "x",
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("named", [0, 1, 2])
def test_any_shard_opens_the_whole_model(form: Form, named: int, tmp_path: Path) -> None:
    paths = written(tmp_path, form.shards())
    (tmp_path / "whole").write_bytes(form.llama())
    with open_checkpoint(paths[named]) as checkpoint, open_checkpoint(tmp_path / "whole") as whole:
        assert checkpoint.path == paths[0] and [file.path for file in checkpoint.files] == paths
        assert (checkpoint.hyperparameters, checkpoint.vocabulary) == (whole.hyperparameters, whole.vocabulary)
        assert checkpoint.card == whole.card == {"name": "Tiny"}
        assert {name: tensor.read_rows(0, tensor.info.n_rows).tobytes() for name, tensor in whole.tensors.items()} == {
            name: tensor.read_rows(0, tensor.info.n_rows).tobytes() for name, tensor in checkpoint.tensors.items()
        }
        assert checkpoint.tensors["output.weight"].origin == f"{NAMES[2]}: output.weight"


def test_shards_of_different_forms_are_one_model(tmp_path: Path) -> None:
    files = [form.shards()[index] for index, form in enumerate((V3, V3_BIG, V1))]
    with open_checkpoint(written(tmp_path, files)[0]) as checkpoint:
        weights = [tensor.read_rows(0, tensor.info.n_rows).view("<f4") for tensor in checkpoint.tensors.values()]
    assert np.array_equal(np.concatenate([each.ravel() for each in weights]), np.arange(sum(map(np.size, weights))))


def test_first_shard_may_have_no_tensors(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path, V3.shards((0, 7, 5)))[1]) as checkpoint:
        assert checkpoint.tensors.keys() == LLAMA_SHAPES.keys()


def test_shards_behind_links_are_found_by_the_names_of_the_links(tmp_path: Path) -> None:
    """As a hub cache has them: names that lead to digests."""
    blobs = written(tmp_path / "blobs", V3.shards(), ["a", "b", "c"])
    (tmp_path / "snapshot").mkdir()
    for blob, name in zip(blobs, NAMES, strict=True):
        (tmp_path / "snapshot" / name).symlink_to(blob)
    with open_checkpoint(tmp_path / "snapshot" / NAMES[2]) as checkpoint:
        assert checkpoint.tensors.keys() == LLAMA_SHAPES.keys()


def test_folder_of_one_model_opens_it(tmp_path: Path) -> None:
    written(tmp_path / "model", V3.shards())
    (tmp_path / "model" / "receipt.json").write_text("{}")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        assert checkpoint.path == tmp_path / "model" / NAMES[0]
    (tmp_path / "model" / "other.gguf").write_bytes(V3.llama())
    with pytest.raises(UnsupportedError, match="found other, tiny, allowed one GGUF model") as caught:
        open_checkpoint(tmp_path / "model")
    assert caught.value.field == "folder"


@pytest.mark.parametrize(
    ("config", "weights"), [("config.json", "model.safetensors"), ("params.json", "consolidated.00.pth")]
)
def test_folder_of_another_model_with_gguf_files_beside_it(tmp_path: Path, config: str, weights: str) -> None:
    """A config.json by itself is no model: many who publish GGUF files leave one there."""
    written(tmp_path, V3.shards())
    (tmp_path / config).write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / NAMES[0]
    (tmp_path / weights).write_bytes(b"")
    assert not gguf.sniff(tmp_path)


def test_shards_that_are_links_to_elsewhere_are_not_followed(tmp_path: Path) -> None:
    """Unless the one that was named is a link to there too: who links to one of them links to all."""
    paths = written(tmp_path / "model", V3.shards())
    (tmp_path / "there").mkdir()
    for number, path in reversed(list(enumerate(paths))):
        path.rename(tmp_path / "there" / path.name)
        path.symlink_to(tmp_path / "there" / path.name)
        if number:
            with pytest.raises(UnsafeError, match="found a link to") as caught:
                open_checkpoint(paths[0])
            assert caught.value.path == path
    with open_checkpoint(paths[1]) as checkpoint:
        assert checkpoint.tensors.keys() == LLAMA_SHAPES.keys()
    with pytest.raises(UnsafeError, match="found a link to"):  # nobody named any of them
        open_checkpoint(paths[0].parent)


def test_folder_without_the_first_shard(tmp_path: Path) -> None:
    written(tmp_path / "model", V3.shards())[0].unlink()
    with pytest.raises(MissingError) as caught:
        open_checkpoint(tmp_path / "model")
    assert caught.value.path == tmp_path / "model" / NAMES[0]


def test_file_that_is_the_only_shard(tmp_path: Path) -> None:
    data = V3.llama([*V3.llama_keys(), *V3.split_keys(0, 1, len(LLAMA_SHAPES))])
    for name in ("tiny-00001-of-00001.gguf", "renamed.gguf"):
        open_checkpoint(written(tmp_path, [data], [name])[0]).close()


Spoiled = Callable[[Form], list[bytes]]


def replaced(index: int, make: Callable[[Form], bytes]) -> Spoiled:
    return lambda form: [make(form) if i == index else data for i, data in enumerate(form.shards())]


def shard(form: Form, keys: list[bytes], first: int, last: int) -> bytes:
    return form.llama(keys, dict(list(LLAMA_SHAPES.items())[first:last]))


def second(*more: Callable[[Form], bytes], number: int = 1, count: int = 3, total: int = 12) -> Spoiled:
    """The second shard with other split keys, and more."""
    return replaced(
        1, lambda form: shard(form, [*(each(form) for each in more), *form.split_keys(number, count, total)], 5, 9)
    )


def first(number: int = 0, count: int = 3, total: int = 12) -> Spoiled:
    return replaced(0, lambda form: shard(form, [*form.llama_keys(), *form.split_keys(number, count, total)], 0, 5))


# (name, files, which file the error names, field); all when the first shard is opened.
LIES: list[tuple[str, Spoiled, int, str]] = [
    ("G39 number repeated", second(number=0), 1, "split.no"),
    ("G39 number of another", second(number=2), 1, "split.no"),
    ("G39 number 65535", second(number=65535), 1, "split.no"),
    ("G39 first is not the first", first(number=1), 0, "split.no"),
    ("G39 count 0", first(count=0), 0, "split.tensors.count"),
    ("G39 count 1", first(count=1), 0, "split.tensors.count"),
    ("G39 count 2", first(count=2), 0, "split.count"),
    ("G39 count 65535", first(count=65535), 0, "split.count"),
    ("G39 count of the second 0", second(count=0), 1, "split.count"),
    ("G39 count of the second 65535", second(count=65535), 1, "split.count"),
    ("G39 total of the second", second(total=13), 1, "split.tensors.count"),
    ("G39 total of the first", first(total=11), 0, "split.tensors.count"),
    ("no split keys", replaced(1, lambda form: shard(form, [], 5, 9)), 1, "split.count"),
    ("no number", replaced(1, lambda form: shard(form, form.split_keys(1, 3, 12)[1:], 5, 9)), 1, "split.no"),
    ("number as text",
     replaced(1, lambda form: shard(form, [form.string("split.no", "1"), *form.split_keys(1, 3, 12)[1:]], 5, 9)), 1,
     "split.no"),
    ("count as text",
     replaced(0, lambda form: shard(form, [*form.llama_keys(), form.string("split.count", "3")], 0, 5)), 0,
     "split.count"),
    ("G39 tensor in two shards",
     replaced(1, lambda form: shard(form, form.split_keys(1, 3, 12), 4, 9)), 1, "blk.0.attn_v.weight"),
    ("G39 tensor missing", replaced(1, lambda form: shard(form, form.split_keys(1, 3, 12), 6, 9)), 0,
     "split.tensors.count"),
    ("the same shard twice", lambda form: [form.shards()[0], form.shards()[0], form.shards()[2]], 1, "split.no"),
    ("G39 another architecture", second(lambda form: form.string("general.architecture", "qwen2")), 1,
     "general.architecture"),
    ("architecture as a number", second(lambda form: form.uint32("general.architecture", 1)), 1,
     "general.architecture"),
    ("another context", second(lambda form: form.uint32("llama.context_length", 65)), 1, "llama.context_length"),
    ("a shard of nothing", replaced(1, lambda form: b""), 1, "header"),
    ("a shard that is cut", replaced(2, lambda form: form.shards()[2][:-1]), 2, "output.weight"),
    ("a tail", replaced(2, lambda form: form.shards()[2] + b"\0"), 2, "trailing bytes"),
]  # fmt: skip


@pytest.mark.parametrize("form", [V1, V3, V3_BIG], ids=name_of)
@pytest.mark.parametrize(("files", "index", "field"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_bad_shards(form: Form, files: Spoiled, index: int, field: str, tmp_path: Path) -> None:
    paths = written(tmp_path, files(form))
    descriptors = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(paths[0])
    assert (caught.value.path, caught.value.field) == (paths[index], field)
    assert len(list(Path("/dev/fd").iterdir())) == descriptors


@pytest.mark.parametrize("form", [V1, V3, V3_BIG], ids=name_of)
def test_what_a_shard_repeats_truly_is_no_fault(form: Form, tmp_path: Path) -> None:
    files = second(lambda form: form.string("general.architecture", "llama"))(form)
    open_checkpoint(written(tmp_path, files)[0]).close()


@pytest.mark.parametrize("named", [0, 1, 2])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_shard_is_named(named: int, missing: int, tmp_path: Path) -> None:
    paths = written(tmp_path, V3.shards())
    paths[missing].unlink()
    with pytest.raises(MissingError) as caught:
        open_checkpoint(paths[named])
    assert caught.value.path == paths[missing]
    if named != missing:
        assert str(caught.value) == f"{paths[missing]}: not found, {NAMES[named]} is of the same model"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("model.gguf", "split.count"),
        ("tiny-1-of-3.gguf", "split.count"),
        ("tiny-00001-of-00003.bin", "split.count"),
        ("tiny-00001-of-00004.gguf", "split.count"),
        ("tiny-00000-of-00003.gguf", "split.no"),
        ("tiny-00004-of-00003.gguf", "split.no"),
        ("tiny-00002-of-00003.gguf", "split.no"),
    ],
)
def test_name_that_does_not_tell_the_others(name: str, field: str, tmp_path: Path) -> None:
    paths = written(tmp_path, V3.shards())
    shutil.copy(paths[0], tmp_path / "kept")
    (tmp_path / "kept").replace(tmp_path / name)
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(tmp_path / name)
    assert (caught.value.path, caught.value.field) == (tmp_path / name, field)


def test_more_shards_than_can_be_open(tmp_path: Path) -> None:
    count = MOST_SHARDS + 1
    keys = [*V3.llama_keys(), *V3.split_keys(0, count, 12)]
    (path,) = written(tmp_path, [V3.llama(keys)], [f"tiny-00001-of-{count:05}.gguf"])
    with pytest.raises(UnsupportedError, match="at most 512 shards"):
        open_checkpoint(path)


def test_shards_cut_anywhere_are_refused(tmp_path: Path) -> None:
    paths = written(tmp_path, V3.shards())
    header = paths[1].read_bytes()[:400]
    for size in range(len(header)):
        paths[1].write_bytes(header[:size])
        with pytest.raises(MalformedError) as caught:
            open_shards(paths[0])
        assert caught.value.path == paths[1]


def test_shards_with_any_bit_of_their_keys_flipped_are_read_or_refused(tmp_path: Path) -> None:
    paths = written(tmp_path, V3.shards())
    data = paths[1].read_bytes()
    end = data.index(b"blk.0.ffn_gate.weight")
    verdicts = {True: 0, False: 0}
    for position in range(end):
        bit = position % 8  # one bit of each byte; test_gguf_dialect flips them all
        paths[1].write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
        try:
            open_checkpoint(paths[0]).close()
            verdicts[True] += 1
        except ConversionError as error:
            assert isinstance(error, MalformedError)
            verdicts[False] += 1
    assert verdicts[False] > 200 and verdicts[True] > 0  # such as letters of a key that may be absent


def test_opener_opens_every_shard(tmp_path: Path) -> None:
    from converters.input_file import InputFile

    paths = written(tmp_path, V3.shards())
    asked: list[Path] = []

    def opener(path: Path) -> InputFile:
        asked.append(path)
        return InputFile(path)

    open_checkpoint(paths[1], opener=opener).close()
    assert sorted(asked) == paths
