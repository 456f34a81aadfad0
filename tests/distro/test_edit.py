"""Keys of files edited on the disk: in place or anew, what is refused, what a crash and a neighbour may do."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import gguf
import pytest

from converters.errors import MalformedError, MissingError, RefusedError
from converters.formats import open_checkpoint
from converters.formats.gguf_edit import PAD
from converters.formats.gguf_header import read_header
from converters.input_file import InputFile
from distro import edit as editing
from distro import redo
from distro.config import Settings
from distro.edit import Edited
from distro.errors import CannotCreateError, NotFoundError, StorageError, UsageError
from distro.inspect.inspection import inspect
from distro.progress import Silent
from distro.proof.identify import look_up
from distro.store import Store
from distro.swarm.make import make
from tests.fakes import gguf_bytes
from tests.fakes.gguf_bytes import string
from tests.fakes.gguf_forms import FORMS, V3, Form, name_of
from tests.fakes.store import put

GOOD = gguf_bytes.llama().build()


def edit(path: Path, changes: dict[str, str | None], kind: str | None = None, **options: Any) -> Edited:
    return editing.edit(Store(path.parent / "home"), path, changes, kind, progress=Silent(), **options)


def weights(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {name: each.read_rows(0, each.info.n_rows).tobytes() for name, each in checkpoint.tensors.items()}


def metadata(path: Path) -> dict[str, object]:
    with InputFile(path) as file:
        return dict(read_header(file).metadata)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD)
    return path


def test_value_of_the_same_length_is_changed_in_place(model: Path) -> None:
    inode = model.stat().st_ino
    assert edit(model, {"general.name": "TINY", "llama.context_length": "128"}) == Edited(
        model, True, 1696
    )  # the whole head
    assert model.stat().st_ino == inode
    expected = GOOD.replace(gguf_bytes.text("Tiny"), gguf_bytes.text("TINY"))
    context = gguf_bytes.uint32("llama.context_length", 64), gguf_bytes.uint32("llama.context_length", 128)
    assert model.read_bytes() == expected.replace(*context)
    assert [each.name for each in model.parent.iterdir()] == ["model.gguf"]


def test_value_that_does_not_fit_makes_a_file_with_room_for_the_next(model: Path) -> None:
    before, inode = weights(model), model.stat().st_ino
    edited = edit(model, {"general.name": "A name that needs much more room than there is"})
    assert not edited.in_place and edited.path == model
    assert model.stat().st_ino != inode and weights(model) == before
    assert (model.stat().st_size - len(GOOD)) % 4096 == 0
    assert metadata(model)["general.name"] == "A name that needs much more room than there is"
    assert str(metadata(model)[PAD]).strip() == ""
    assert edit(model, {"general.name": "An even longer name, " * 20}).in_place
    assert edit(model, {"general.url": "https://example.org"}, "string").in_place
    assert edit(model, {"general.url": None}).in_place
    assert weights(model) == before
    assert sorted(each.name for each in model.parent.iterdir()) == ["model.gguf"]


def test_output_leaves_the_file_as_it_is(model: Path) -> None:
    target = model.with_name("new.gguf")
    edited = edit(model, {"general.name": "TINY"}, output=target)
    assert (edited.path, edited.in_place, edited.written) == (target, False, target.stat().st_size)
    assert model.read_bytes() == GOOD
    assert metadata(target)["general.name"] == "TINY" and weights(target) == weights(model)
    with pytest.raises(CannotCreateError, match="is there already"):
        edit(model, {"general.name": "TINY"}, output=target)
    with pytest.raises(CannotCreateError, match="is there already"):
        edit(model, {"general.name": "TINY"}, output=model)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_every_form_stays_what_it_is(form: Form, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(form.llama())
    before = weights(path)
    for name in ("Tina", "T", "Tiny and so on, for a hundred letters " * 3):
        edit(path, {"general.name": name})
        assert metadata(path)["general.name"] == name and weights(path) == before
        with InputFile(path) as file:
            assert read_header(file).dialect.version == form.version
        assert path.read_bytes()[4:8] == form.u32(form.version)


def test_file_with_other_names_is_written_anew(model: Path) -> None:
    """Editing it in place would change it under all of its names."""
    os.link(model, model.with_name("other.gguf"))
    assert not edit(model, {"general.name": "TINY"}).in_place
    assert model.with_name("other.gguf").read_bytes() == GOOD
    assert metadata(model)["general.name"] == "TINY"


def test_link_is_refused_with_a_way_out(model: Path) -> None:
    link = model.with_name("link.gguf")
    link.symlink_to(model)
    with pytest.raises(UsageError, match=r"is a link .* -o OUT"):
        edit(link, {"general.name": "TINY"})
    assert edit(link, {"general.name": "TINY"}, output=model.with_name("new.gguf")).path.exists()
    assert model.read_bytes() == GOOD


def test_file_of_a_store_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = put(tmp_path / "home", "tiny", "f32", {"tiny.gguf": GOOD}) / "tiny.gguf"
    with pytest.raises(UsageError, match=r"is in a store.* -o OUT"):
        edit(path, {"general.name": "TINY"})
    (tmp_path / "way").symlink_to(path.parent)
    with pytest.raises(UsageError, match="is in a store"):
        edit(tmp_path / "way" / "tiny.gguf", {"general.name": "TINY"})
    assert path.read_bytes() == GOOD


def test_output_in_the_store_is_refused(model: Path) -> None:
    with pytest.raises(RefusedError, match="is in the store"):
        edit(model, {"general.name": "TINY"}, output=model.parent / "home" / "models" / "x.gguf")
    assert not (model.parent / "home").exists()


@pytest.mark.parametrize("colon", ["-", ":"])
def test_a_blob_of_ollamas_is_refused(tmp_path: Path, colon: str) -> None:
    blob = tmp_path / "models" / "blobs" / f"sha256{colon}{'0' * 64}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(GOOD)
    with pytest.raises(UsageError, match="in Ollama's store, where its name is its digest; -o OUT"):
        edit(blob, {"general.name": "TINY"})
    assert blob.read_bytes() == GOOD


def test_blob_of_a_hub_cache_is_refused(tmp_path: Path) -> None:
    repo = tmp_path / "models--o--n"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    (repo / "blobs" / "abc").write_bytes(GOOD)
    with pytest.raises(UsageError, match="is in a hub cache"):
        edit(repo / "blobs" / "abc", {"general.name": "TINY"})


# (changes, type, words)
BREAKING: list[tuple[dict[str, str | None], str | None, str]] = [
    ({"llama.context_length": None}, None, "llama.context_length: found nothing"),
    ({"llama.context_length": "0"}, None, "llama.context_length: found 0"),
    ({"llama.context_length": "64"}, "string", "llama.context_length: found 64, allowed an integer"),
    ({"llama.rope.freq_base": "-1"}, None, "llama.rope.freq_base"),
    ({"tokenizer.ggml.eos_token_id": "8"}, None, "tokenizer.ggml.eos_token_id"),
    ({"llama.attention.layer_norm_rms_epsilon": "0"}, None, "layer_norm_rms_epsilon"),
    ({"llama.block_count": "2"}, None, "llama.block_count: the weights depend on it"),
]


@pytest.mark.parametrize(("changes", "kind", "words"), BREAKING)
def test_what_would_break_the_model_needs_force(
    changes: dict[str, str | None], kind: str | None, words: str, model: Path
) -> None:
    with pytest.raises(RefusedError) as caught:
        edit(model, changes, kind)
    assert words in str(caught.value) and "--force" in str(caught.value)
    assert model.read_bytes() == GOOD
    edit(model, changes, kind, force=True)
    with pytest.raises(MalformedError):
        open_checkpoint(model)


def test_file_that_is_no_model_of_ours_can_be_edited(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(gguf_bytes.SMALL.build())
    assert edit(path, {"small.epsilon": "2"}).in_place
    assert metadata(path)["small.epsilon"] == 2.0


def test_first_shard_can_be_edited(tmp_path: Path) -> None:
    paths = [tmp_path / f"t-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for path, data in zip(paths, V3.shards(), strict=True):
        path.write_bytes(data)
    before = weights(paths[0])
    edit(paths[0], {"general.name": "A name that is longer"})
    assert weights(paths[2]) == before
    with open_checkpoint(paths[1]) as checkpoint:
        assert checkpoint.card["name"] == "A name that is longer"


def test_malformed_and_missing_files(tmp_path: Path, model: Path) -> None:
    with pytest.raises(MissingError):
        edit(tmp_path / "nothing", {"general.name": "TINY"})
    for data in (b"", GOOD[:-1], GOOD + b"\0", b"PK\3\4" + bytes(100)):
        model.write_bytes(data)
        with pytest.raises(MalformedError):
            edit(model, {"general.name": "TINY"})
        assert model.read_bytes() == data


def test_file_without_tensors_is_edited(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(gguf_bytes.Gguf((string("general.name", "v"),)).build())
    edit(path, {"general.name": "w" * 100})
    assert path.read_bytes() == gguf_bytes.Gguf((string("general.name", "w" * 100),)).build()


@pytest.fixture
def half_edited(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose edit died when it had marked the file; general.name was to become TINY."""

    def crash(descriptor: int, runs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redo, "_carry_out", crash)
        with pytest.raises(KeyboardInterrupt):
            edit(model, {"general.name": "TINY"})
    assert redo.record_of(model).exists()
    return model


def test_half_edited_file_is_no_model_to_anybody(half_edited: Path) -> None:
    words = "a GGUF file whose edit was cut short; `distro gguf finish` completes it"
    for path in (half_edited, half_edited.parent):
        with pytest.raises(MalformedError, match=words):
            open_checkpoint(path)
    with pytest.raises(MalformedError, match=words):
        inspect(half_edited, name="x")
    with pytest.raises(MalformedError, match=words):
        make(half_edited.parent)
    with pytest.raises(NotFoundError, match="nothing can be proven"):
        look_up(
            Settings(half_edited.parent / "home", half_edited.parent / "config"),
            half_edited,
            full=True,
            progress=Silent(),
        )
    with pytest.raises(ValueError, match="magic invalid"):
        gguf.GGUFReader(half_edited)


def test_what_a_crash_left_is_finished_first(half_edited: Path) -> None:
    edit(half_edited, {"llama.context_length": "128"})
    assert metadata(half_edited)["general.name"] == "TINY" and metadata(half_edited)["llama.context_length"] == 128
    assert not redo.record_of(half_edited).exists()


def test_finish(half_edited: Path) -> None:
    assert editing.finish(half_edited)
    assert metadata(half_edited)["general.name"] == "TINY"
    assert not editing.finish(half_edited)
    assert [each.name for each in half_edited.parent.iterdir()] == ["model.gguf"]


def test_without_its_record_nothing_can_be_finished(half_edited: Path) -> None:
    redo.record_of(half_edited).unlink()
    before = half_edited.read_bytes()
    for complete in (editing.finish, lambda path: edit(path, {"general.name": "TINY"})):
        with pytest.raises(MalformedError, match="cut short"):
            complete(half_edited)
    assert half_edited.read_bytes() == before


def test_link_is_not_finished(half_edited: Path) -> None:
    link = half_edited.with_name("link.gguf")
    link.symlink_to(half_edited)
    with pytest.raises(MalformedError, match="cut short"):
        editing.finish(link)
    assert redo.record_of(half_edited).exists()


def test_two_at_a_time(model: Path) -> None:
    with model.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for change in (editing.finish, lambda path: edit(path, {"general.name": "TINY"})):
            with pytest.raises(StorageError, match="edited by another process"):
                change(model)
    assert edit(model, {"general.name": "TINY"}).in_place


def test_file_larger_than_a_block_is_copied_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    shapes = {**gguf_bytes.LLAMA_SHAPES, "rope_freqs.weight": (3, 1 << 19)}  # the one that llamas keep unseen
    path.write_bytes(gguf_bytes.llama(shapes).build())
    before = weights(path)
    assert not edit(path, {"general.name": "n" * 300}).in_place
    assert weights(path) == before
