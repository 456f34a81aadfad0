"""Models split and merged on the disk, judged by what llama-gguf-split itself made of the same file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import gguf
import pytest

from converters.errors import MalformedError, MissingError, RefusedError
from converters.formats import open_checkpoint
from converters.formats.gguf_header import read_header
from converters.input_file import InputFile
from distro import regroup
from distro.errors import CannotCreateError, DiskFullError
from distro.progress import Silent
from distro.store import Store
from tests.fakes import gguf_bytes
from tests.fakes.gguf_forms import FORMS, V3, V3_BIG, Form, name_of


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def split(store: Store, source: Path, folder: Path, **options: int) -> tuple[Path, ...]:
    return regroup.split(store, source, folder, progress=Silent(), **options)


# llama-gguf-split of llama.cpp b9993 on SmolLM2-135M-Instruct.Q4_1.gguf: SHA-256 of what it wrote.
BY_SIZE = [  # --split-max-size 40M
    "3f5ab9ffa02a0f8eb50435b7929dbbb5e5ecff012bd90426ccc5eb6b90f02e49",
    "248ceca2b27c2b7eced896a10a3ddb7114b4da82d4e6c4b40272b459993fd369",
    "4b40b6cdaa9b35a97fd697b3ca413ac89c1df12347da6916d72bc8cc56fa7bc9",
]
KEYS_FIRST = [  # --split-max-tensors 50 --no-tensor-first-split
    "02ff842967f9058c30935789a9fe3271e99e332721b086e1faa5a3e82257ad23",
    "d57e105f729e815ebe916c6ce9c6dcb4adc5e48bfa4a003b025eefc33c2094cc",
    "94cb2b2e072c4389f79a47f8f8719d23bc73f61f5ec8006b408142db43bf644d",
    "6b75b2da70f3e5ceef71c5817e546455fde3e45e59f2a9d48dbdab8d7b53c603",
    "77acd774953c6e377b04101abae466a7b3722b72a0849385f8fb8827bae9042d",
    "bae75dedb5d88aa137cbd32eed4fd1887f808669c0229971861ea4815d950c27",
    "bc023d81ddf89caf997d68ae4288264eb87c59f18175592b83ccb48a1459e1c4",
]
MERGED = "2c7349e55c33f7982bfc974ab310c9a6c7de876027d7cbe0dd50a945e7ac7269"  # --merge of any of these
WHOLE = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_llama_gguf_split_makes_the_same_bytes(smollm2_gguf: Path, store: Store, tmp_path: Path) -> None:
    shards = split(store, smollm2_gguf, tmp_path / "shards", max_bytes=40_000_000)
    assert [path.name for path in shards] == [
        f"SmolLM2-135M-Instruct.Q4_1-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    assert [sha256(path) for path in shards] == BY_SIZE
    merged = regroup.merge(store, shards[2], tmp_path / "whole.gguf", progress=Silent())
    assert sha256(merged) == WHOLE
    kept = regroup.merge(store, shards[0], tmp_path / "kept.gguf", keep_split_keys=True, progress=Silent())
    assert sha256(kept) == MERGED


def test_shards_are_divided_anew(smollm2_gguf: Path, store: Store, tmp_path: Path) -> None:
    shards = split(store, smollm2_gguf, tmp_path / "a", max_bytes=40_000_000)
    again = split(store, shards[1], tmp_path / "b", max_tensors=50, tensors_from_second=True)
    assert [sha256(path) for path in again] == KEYS_FIRST


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("tensors", [1, 5, 12, 99])
def test_split_and_merged(form: Form, tensors: int, store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(form.llama())
    shards = split(store, whole, tmp_path / "shards", max_tensors=tensors)
    assert len(shards) == -(-12 // tensors)
    with open_checkpoint(shards[-1]) as checkpoint, open_checkpoint(whole) as original:
        assert {name: each.read_rows(0, each.info.n_rows).tobytes() for name, each in checkpoint.tensors.items()} == {
            name: each.read_rows(0, each.info.n_rows).tobytes() for name, each in original.tensors.items()
        }
    merged = regroup.merge(store, shards[0], tmp_path / "merged.gguf", progress=Silent())
    # Older versions become the newest, in the byte order that they have.
    expected = V3 if form.order == "<" else V3_BIG
    assert merged.read_bytes() == expected.llama()


def test_gguf_py_reads_shards(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(gguf_bytes.llama().build())
    readers = [gguf.GGUFReader(path) for path in split(store, whole, tmp_path / "shards", max_bytes=5000)]
    theirs = {tensor.name: tensor.data.tolist() for tensor in gguf.GGUFReader(whole).tensors}
    assert {tensor.name: tensor.data.tolist() for reader in readers for tensor in reader.tensors} == theirs
    assert [reader.fields["split.no"].contents() for reader in readers] == list(range(len(readers)))
    assert {reader.fields["split.count"].contents() for reader in readers} == {len(readers)}
    assert readers[0].fields["split.tensors.count"].types == [gguf.GGUFValueType.INT32]
    assert len(readers) > 3


def test_types_of_keys_stay_what_they_are(store: Store, tmp_path: Path) -> None:
    kinds = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "u64": 10, "i64": 11, "f64": 12}
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 10: 8, 11: 8, 12: 8}
    keys = [gguf_bytes.key(name, kind, bytes([7] * sizes[kind])) for name, kind in kinds.items()]
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(
        gguf_bytes.Gguf((*keys, *gguf_bytes.SMALL.keys), gguf_bytes.SMALL.tensors, gguf_bytes.SMALL.data).build()
    )
    shards = split(store, whole, tmp_path / "shards", max_tensors=1)
    regroup.merge(store, shards[1], tmp_path / "merged.gguf", progress=Silent())
    assert (tmp_path / "merged.gguf").read_bytes() == whole.read_bytes()


def test_places_that_are_taken(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(V3.llama())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for folder in (tmp_path / "taken", whole):
        with pytest.raises(CannotCreateError):
            split(store, whole, folder, max_tensors=5)
    shards = split(store, whole, tmp_path / "shards", max_tensors=5)
    for target in (whole, shards[0]):
        with pytest.raises(CannotCreateError):
            regroup.merge(store, shards[0], target, progress=Silent())
    assert whole.read_bytes() == V3.llama()


def test_store_is_no_place_for_what_has_no_receipt(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(V3.llama())
    shards = split(store, whole, tmp_path / "shards", max_tensors=5)
    store.folder("tiny", "mine").mkdir(parents=True)
    (tmp_path / "way").symlink_to(store.folder("tiny", "mine"))
    for place in (store.folder("tiny", "mine"), tmp_path / "way"):
        with pytest.raises(RefusedError, match="is in the store"):
            split(store, whole, place / "shards", max_tensors=5)
        with pytest.raises(RefusedError, match="is in the store"):
            regroup.merge(store, shards[0], place / "whole.gguf", progress=Silent())
    assert list(store.folder("tiny", "mine").iterdir()) == []


def test_bad_shards_are_not_merged(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(V3.llama())
    shards = split(store, whole, tmp_path / "shards", max_tensors=5)
    good = shards[1].read_bytes()
    shards[1].write_bytes(good[:-1])
    with pytest.raises(MalformedError):
        regroup.merge(store, shards[0], tmp_path / "merged.gguf", progress=Silent())
    shards[1].unlink()
    with pytest.raises(MissingError, match=r"00002-of-00003\.gguf: not found"):
        regroup.merge(store, shards[0], tmp_path / "merged.gguf", progress=Silent())
    shards[1].write_bytes(V3_BIG.shards((5, 5, 2))[1])
    with pytest.raises(RefusedError, match="is big-endian, the first shard is little-endian"):
        regroup.merge(store, shards[0], tmp_path / "merged.gguf", progress=Silent())
    assert not (tmp_path / "merged.gguf").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_more_shards_than_can_be_opened(store: Store, tmp_path: Path) -> None:
    tensors = tuple(gguf_bytes.tensor(f"w{index}", (8,), 0, 32 * index) for index in range(513))
    (tmp_path / "many.gguf").write_bytes(gguf_bytes.Gguf((), tensors, bytes(32 * 513)).build())
    with pytest.raises(RefusedError, match="513 shards"):
        split(store, tmp_path / "many.gguf", tmp_path / "shards", max_tensors=1)
    assert not (tmp_path / "shards").exists()


def test_full_disk_is_refused_before_the_first_byte(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    entry = gguf_bytes.tensor("w", (1 << 20, 1 << 21), 0, 0)  # 8 TiB, with holes
    head = gguf_bytes.Gguf((), (entry,)).build()
    path.write_bytes(head)
    os.truncate(path, len(head) + (1 << 43))
    with InputFile(path) as file:
        assert read_header(file).tensors[0][0].n_bytes == 1 << 43
    with pytest.raises(DiskFullError):
        split(store, path, tmp_path / "shards", max_tensors=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["huge.gguf"]
