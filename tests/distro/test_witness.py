"""Results that are made here have lists of piece hashes, and a proof that the next `verify` relies on, for no read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from converters import plan as planning
from converters.recipe import Recipe
from distro import piece_hashes, verification
from distro.config import Settings
from distro.derive import Derived
from distro.piece_hashes import PieceHasher, find_list
from distro.progress import Silent
from distro.proofs import Proofs
from distro.prove import How
from distro.receipt import Receipt
from distro.reference import parse_reference
from distro.store import Store
from distro.verification import Finding
from tests.fakes import derived, tiny_llama

PIECE = 16 * 1024
RECIPES = [
    Recipe("gguf", "q8_0"),
    Recipe("gguf", "f32"),
    Recipe("gguf", "f16", max_shard_bytes=60_000),
    Recipe("safetensors", "bf16", max_shard_bytes=60_000),
    Recipe("bin", "f16"),
]
IDS = ["gguf", "gguf of many pieces", "split gguf", "safetensors", "zip with checksums"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", PIECE)
    monkeypatch.setattr(planning, "_BLOCK_WEIGHTS", 2048)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", state_folder=tmp_path / "state", offline=True)


def _make(settings: Settings, recipe: Recipe, *, threads: int = 3) -> Derived:
    source = settings.home.parent / "source"
    if not source.exists():
        tiny_llama.write(source)
    proofs = Proofs(settings.state_folder)
    return derived.into_store(Store(settings.home), source, recipe, "tiny", "made", threads=threads, proofs=proofs)


def _verify(settings: Settings, *, full: bool = False) -> list[Finding]:
    subject = verification.in_store(settings, parse_reference("tiny:made"))
    return verification.verify(settings, subject, full=full, progress=Silent())


def _folder_and_receipt(settings: Settings) -> tuple[Path, Receipt]:
    store = Store(settings.home)
    receipt = store.receipt("tiny", "made")
    assert receipt is not None
    return store.folder("tiny", "made"), receipt


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_lists_are_those_that_a_read_gives(settings: Settings, recipe: Recipe, threads: int) -> None:
    _make(settings, recipe, threads=threads)
    folder, receipt = _folder_and_receipt(settings)
    n_lists = 0
    for name, entry in receipt.files.items():
        content = (folder / name).read_bytes()
        hasher = PieceHasher(len(content))
        hasher.update(content)
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert find_list(folder, entry.pieces, entry.sha256, entry.size) == hasher.finish(entry.sha256)
        n_lists += entry.pieces is not None
    assert n_lists == len(list((folder / ".pieces").iterdir())) == sum(e.size > PIECE for e in receipt.files.values())


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_the_next_verify_relies_on_it_and_says_so(settings: Settings, recipe: Recipe) -> None:
    _make(settings, recipe)
    findings = _verify(settings)
    assert {(each.proof.how, each.verdict.status.value) for each in findings} == {(How.REMEMBERED, "ok")}
    assert all(each.proof.proven_at is not None for each in findings)
    assert verification.relied_on(findings) == findings


def test_a_full_verify_goes_by_pieces_at_once(settings: Settings) -> None:
    _make(settings, RECIPES[1])
    (finding,) = _verify(settings, full=True)
    assert (finding.proof.how, finding.verdict.status.value) == (How.PIECES, "ok")


def test_without_a_memory_the_list_proves_nothing_by_itself(settings: Settings) -> None:
    _make(settings, RECIPES[1])
    (finding,) = _verify(replace(settings, state_folder=None))
    assert (finding.proof.how, finding.verdict.status.value) == (How.READ, "ok")


def test_what_was_changed_since_is_found_and_where(settings: Settings) -> None:
    made = _make(settings, RECIPES[1])
    with made.path.open("r+b") as stream:
        stream.seek(3 * PIECE + 5)
        byte = stream.read(1)
        stream.seek(3 * PIECE + 5)
        stream.write(bytes([byte[0] ^ 1]))
    (finding,) = _verify(settings)
    assert finding.verdict.status.value == "wrong"
    assert f"the first at byte {3 * PIECE}" in str(finding.verdict.found)


def test_a_conversion_that_was_interrupted_has_them_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters import convert

    made_rows, n_made = convert.make_rows, 0

    def stopping(*arguments: object) -> object:
        nonlocal n_made
        n_made += 1
        if n_made == 20:
            raise KeyboardInterrupt
        return made_rows(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "make_rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        _make(settings, RECIPES[1])
    test_the_lists_are_those_that_a_read_gives(settings, RECIPES[1], 2)


def test_a_file_that_somebody_has_been_at_is_not_remembered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distro.result import Result

    publish = Result.publish

    def published(result: Result) -> None:
        publish(result)
        if (path := result.target / "tiny-F32.gguf").exists():
            path.write_bytes(path.read_bytes())

    monkeypatch.setattr(Result, "publish", published)
    _make(settings, RECIPES[1])
    assert _verify(settings)[0].proof.how == How.READ
