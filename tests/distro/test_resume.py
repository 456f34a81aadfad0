"""A conversion that was killed, interrupted or robbed of its disk goes on, and ends in the bytes of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters import convert, quants
from converters import plan as planning
from converters.recipe import Recipe
from distro import disk
from distro.derive import Derived
from distro.errors import CannotCreateError, DiskFullError, WrongBytesError
from distro.journal import Journal
from distro.store import Store
from tests.fakes import derived, tiny_llama

Q8 = Recipe("gguf", "q8_0")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_BLOCK_WEIGHTS", 256)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama.write(tmp_path / "source")


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> bytes:
    return derived.into_path(Store(tmp_path / "h"), source, Q8, tmp_path / "expected" / "x.gguf").path.read_bytes()


def _go(source: Path, tmp_path: Path, recipe: Recipe = Q8) -> Derived:
    return derived.into_path(Store(tmp_path / "home"), source, recipe, tmp_path / "out" / "x.gguf")


def _stopped(source: Path, tmp_path: Path, after: int, error: BaseException, recipe: Recipe = Q8) -> list[Path]:
    """A conversion in which the block after so many fails. What is left beside the target, journal last."""
    made, real = 0, convert.make_rows

    def make_rows(*arguments: object) -> object:
        nonlocal made
        made += 1
        if made > after:
            raise error
        return real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(convert, "make_rows", make_rows)
        _go(source, tmp_path, recipe)
    assert not (tmp_path / "out" / "x.gguf").exists()
    return sorted((tmp_path / "out").iterdir(), key=lambda path: path.name.endswith(".journal"))


def _n_made(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe = Q8) -> int:
    """Run to the end; how many blocks were made."""
    made, real = [], convert.make_rows

    def make_rows(*arguments: object) -> object:
        made.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "make_rows", make_rows)
    _go(source, tmp_path, recipe)
    monkeypatch.undo()
    return len(made)


def test_every_kill_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    command = [sys.executable, "-m", "tests.fakes.killed", source, tmp_path / "x.gguf", "q4_0", "40"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=110)
    said = json.loads(answer.stdout)
    assert said["died"] == 40
    assert said["resumed"] > 5
    assert len(set(said["digests"])) == 1
    assert said["left"] == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiskFullError("no room"), OSError(5, "a bad sector")])
def test_what_may_pass_leaves_its_work_for_the_next_run(
    error: BaseException, source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = _stopped(source, tmp_path, 10, error)
    assert len(left) == 2
    assert left[0].read_bytes()[:4] == bytes(4)  # nobody takes it for a GGUF
    monkeypatch.setattr(planning, "_BLOCK_WEIGHTS", 256)
    n_blocks = sum(1 for _ in convert.blocks_of(_plan(source)))
    assert _n_made(source, tmp_path, monkeypatch) == n_blocks - 10
    assert (tmp_path / "out" / "x.gguf").read_bytes() == expected
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.gguf"]


def _plan(source: Path) -> planning.Plan:
    from converters.formats import open_checkpoint

    with open_checkpoint(source) as checkpoint:
        return planning.make(checkpoint, Q8, "x")


def test_a_fault_of_the_input_leaves_nothing(source: Path, tmp_path: Path) -> None:
    assert _stopped(source, tmp_path, 10, ValueError("a bug, say")) == []


def test_a_block_that_the_disk_lost_is_made_again(
    source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = _stopped(source, tmp_path, 10, KeyboardInterrupt())
    with data.open("r+b") as stream:
        stream.truncate(stream.seek(0, os.SEEK_END))
        for offset in range(0, data.stat().st_size, 4096):  # zeros where there was something, as after a power cut
            stream.seek(offset)
            stream.write(bytes(600))
    _go(source, tmp_path)
    assert (tmp_path / "out" / "x.gguf").read_bytes() == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_journal_of_noise_never_decides_the_bytes(seed: int, source: Path, expected: bytes, tmp_path: Path) -> None:
    import random

    data, journal = _stopped(source, tmp_path, 12, KeyboardInterrupt())
    noise, content = random.Random(seed), bytearray(journal.read_bytes())
    head = content.index(b"\n") + 1
    for _ in range(20):
        content[noise.randrange(head, len(content))] ^= 1 << noise.randrange(8)
    if seed % 2:
        del content[noise.randrange(head, len(content)) :]
    journal.write_bytes(content)
    if seed % 3 == 0:
        data.write_bytes(noise.randbytes(data.stat().st_size))
    _go(source, tmp_path)
    assert (tmp_path / "out" / "x.gguf").read_bytes() == expected


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 2, "of": "x"}\n', b"\0" * 5000])
def test_a_journal_of_something_else_is_no_journal(
    content: bytes, source: Path, expected: bytes, tmp_path: Path
) -> None:
    _, journal = _stopped(source, tmp_path, 10, KeyboardInterrupt())
    journal.write_bytes(content)
    _go(source, tmp_path)
    assert (tmp_path / "out" / "x.gguf").read_bytes() == expected
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.gguf"]


def test_a_partial_of_another_recipe_or_input_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    _stopped(source, tmp_path, 10, KeyboardInterrupt())
    other = _go(source, tmp_path, Recipe("gguf", "q4_0")).path
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.gguf"]
    fresh = derived.into_path(Store(tmp_path / "h"), source, Recipe("gguf", "q4_0"), tmp_path / "fresh" / "x.gguf").path
    assert other.read_bytes() == fresh.read_bytes()
    other.unlink()
    _stopped(source, tmp_path, 10, KeyboardInterrupt())
    tiny_llama.write_weights(source, tiny_llama.tensors(seed=7), "safetensors")
    changed = _go(source, tmp_path).path
    fresh.unlink()
    assert changed.read_bytes() == derived.into_path(Store(tmp_path / "h"), source, Q8, fresh).path.read_bytes()


def test_files_of_the_users_own_are_not_ours_to_clear(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = [tmp_path / "out" / name for name in (".x.gguf.bak", ".x.gguf.journal", ".x.gguf.1-2-3.journal")]
    for path in mine:
        path.write_text("precious")
    _go(source, tmp_path)
    assert all(path.read_text() == "precious" for path in mine)


def test_a_result_takes_the_place_of_an_older_one_only_when_it_is_proven(source: Path, tmp_path: Path) -> None:
    target = _go(source, tmp_path).path
    before = target.read_bytes()
    with pytest.raises(CannotCreateError, match="is there already"):
        _go(source, tmp_path, Recipe("gguf", "q4_0"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(quants, "encode", _interrupt)
        derived.into_path(Store(tmp_path / "home"), source, Recipe("gguf", "q4_0"), target, replace=True)
    assert target.read_bytes() == before
    derived.into_path(Store(tmp_path / "home"), source, Recipe("gguf", "q4_0"), target, replace=True)
    assert target.read_bytes() != before
    assert [path.name for path in target.parent.iterdir()] == ["x.gguf"]


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_input_that_is_not_what_its_receipt_says_is_not_converted(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    first = derived.into_store(store, source, Recipe("gguf", "f16"), "tiny", "f16").path
    data = bytearray(first.read_bytes())
    data[-100] ^= 1  # a bit of a weight
    first.write_bytes(data)
    with pytest.raises(WrongBytesError, match=r"tiny-F16.gguf: sha256 is"):
        derived.into_store(store, first, Q8, "tiny", "q8_0")
    assert not store.folder("tiny", "q8_0").exists()


def test_a_journal_holds_what_was_written_to_it(tmp_path: Path) -> None:
    path, one, two = tmp_path / "j", bytes(range(16)), bytes(16)
    journal = Journal(path, "a" * 64)
    journal.record(3, one)
    journal.record(2**40, two)
    journal.close()
    assert path.read_bytes()[: 2 + 75] == b'{"schema": 1, "of": "' + b"a" * 56
    assert len(path.read_bytes().partition(b"\n")[2]) == 2 * (8 + 16 + 4)
    with path.open("ab") as stream:
        stream.write(b"torn")
    again = Journal(path, "a" * 64)
    assert again.done == {3: one, 2**40: two}
    again.record(5, two)
    again.close()
    assert Journal(path, "a" * 64).done == {3: one, 2**40: two, 5: two}
    assert Journal(path, "b" * 64).done == {}


def test_a_disk_with_room_for_the_rest_is_large_enough(
    source: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run wrote has its room already."""
    data, _ = _stopped(source, tmp_path, 10, KeyboardInterrupt())
    with data.open("r+b") as stream:  # all of it, so that nothing more is needed
        stream.write(bytes(len(expected)))
    free = type("Usage", (), {"free": len(expected) // 2})()
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: free)
    _go(source, tmp_path)
    assert (tmp_path / "out" / "x.gguf").read_bytes() == expected


def test_a_disk_that_is_too_small_is_left_as_it_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DiskFullError, match="bytes needed, 1000 free"):
        _go(source, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_configuration_that_changed_between_two_runs_begins_anew(tmp_path: Path) -> None:
    """Rotary factors are computed from config.json and leave no other trace in a GGUF."""
    source = tiny_llama.write(tmp_path / "source")

    def scale(factor: float) -> None:
        scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64}  # fmt: skip
        tiny_llama.write_json(source / "config.json", tiny_llama.config() | {"rope_scaling": scaling})

    scale(8.0)
    _stopped(source, tmp_path, 10, KeyboardInterrupt())  # what is in no file comes first, and so is done
    scale(4.0)
    made = _go(source, tmp_path).path.read_bytes()
    fresh = derived.into_path(Store(tmp_path / "h"), source, Q8, tmp_path / "fresh" / "x.gguf").path
    assert made == fresh.read_bytes()


def test_a_weight_that_changed_between_two_runs_begins_anew_whatever_its_file_says(
    source: Path, tmp_path: Path
) -> None:
    """Another byte, the same size, the time of modification put back: the system still knows when it was."""
    _stopped(source, tmp_path, 10, KeyboardInterrupt())
    weights = source / "model.safetensors"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    data = bytearray(weights.read_bytes())
    for offset in range(10_000 // 4 * 4, len(data), 512):
        data[offset] ^= 0x40  # among the least bits of a number
    weights.write_bytes(data)
    os.utime(weights, ns=times)
    made = _go(source, tmp_path).path.read_bytes()
    fresh = derived.into_path(Store(tmp_path / "h"), source, Q8, tmp_path / "fresh" / "x.gguf").path
    assert made == fresh.read_bytes()
