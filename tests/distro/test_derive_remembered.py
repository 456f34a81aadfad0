"""Results that are made here are remembered as proven, so that the next `verify` relies on it, for no read."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters import plan as planning
from converters.recipe import Recipe
from distro.config import Settings
from distro.derive import Derived
from distro.progress import Silent
from distro.proof import piece_hashes, verification
from distro.proof.proofs import Proofs
from distro.proof.prove import How
from distro.proof.verification import Finding
from distro.receipt import Receipt
from distro.reference import parse_reference
from distro.store import Store
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
def test_the_next_verify_relies_on_it_and_says_so(settings: Settings, recipe: Recipe) -> None:
    _make(settings, recipe)
    findings = _verify(settings)
    assert {(each.proof.how, each.verdict.status.value) for each in findings} == {(How.REMEMBERED, "ok")}
    assert all(each.proof.proven_at is not None for each in findings)
    assert verification.relied_on(findings) == findings


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
