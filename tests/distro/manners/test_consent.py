"""Licences: which have to be agreed to, that it is asked once, and again when something about them changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distro import catalog
from distro.config import Settings
from distro.errors import StorageError
from distro.manifest import Family, File, License, Model, Variant
from distro.manners.consent import Terms, accept, is_accepted, terms_of

TERMS = Terms("LicenseRef-Some", "https://example.org/license", "conditions", ("ab" * 32,))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", state_folder=tmp_path / "state")


@pytest.mark.parametrize(
    ("license_id", "redistribution", "is_open"),
    [
        ("Apache-2.0", "allowed", True),
        ("mit", "allowed", True),
        ("BSD-3-Clause", "conditions", True),
        ("MIT", "forbidden", False),  # then somebody says more than MIT does
        ("LicenseRef-LLaMA-1", "forbidden", False),
        ("LicenseRef-MIT", "allowed", False),
        ("CC-BY-NC-4.0", "conditions", False),
        ("GPL-3.0-only", "allowed", False),
        ("", "allowed", False),
    ],
)
def test_open_licences_need_no_yes(settings: Settings, license_id: str, redistribution: str, is_open: bool) -> None:
    assert is_accepted(settings, Terms(license_id, "https://example.org/", redistribution)) is is_open


def test_agreed_to_once_and_kept_for_this_user_alone(settings: Settings) -> None:
    assert not is_accepted(settings, TERMS)
    accept(settings, TERMS)
    assert is_accepted(settings, TERMS)
    folder = settings.state_folder
    assert folder is not None
    (record,) = (folder / "licenses").iterdir()
    assert record.name == f"{TERMS.digest}.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    said = json.loads(record.read_text())
    assert said.pop("accepted").endswith("Z")
    assert said == {
        "schema": 1, "id": "LicenseRef-Some", "url": "https://example.org/license", "redistribution": "conditions",
        "texts": ["ab" * 32], "digest": TERMS.digest,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"id": "LicenseRef-Other"}, {"url": "https://e.org/2"}, {"redistribution": "forbidden"}, {"texts": ("cd" * 32,)}],
)  # fmt: skip
def test_a_change_is_asked_about_again(settings: Settings, change: dict[str, object]) -> None:
    accept(settings, TERMS)
    assert not is_accepted(settings, replace(TERMS, **change))


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"digest": 1}', b'{"digest": "00"}', b"\xff", b"[" * 100_000])
def test_a_broken_record_is_none(settings: Settings, content: bytes) -> None:
    accept(settings, TERMS)
    assert settings.state_folder
    (record,) = (settings.state_folder / "licenses").iterdir()
    record.write_bytes(content)
    assert not is_accepted(settings, TERMS)
    accept(settings, TERMS)
    assert is_accepted(settings, TERMS)


def test_what_cannot_be_recorded_is_said(settings: Settings) -> None:
    assert settings.state_folder
    settings.state_folder.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="to record a licence"):
        accept(settings, TERMS)


def test_texts_that_the_manifest_knows_are_part_of_the_terms() -> None:
    files = ("LICENSE", "sub/license.txt", "USE_POLICY.md", "LICENSE-MODEL", "licensed.bin", "model.bin", "LICENCE")
    listed = tuple(File(path, 1, sha256=f"{index:064x}") for index, path in enumerate(files))
    model = Model("m", 0, "", "hf", (Variant("hf", "safetensors", listed), Variant("q", "gguf", listed[:1])))
    family = Family("f", "us", License("LicenseRef-X", "https://example.org/", "conditions"), (model,))
    assert terms_of(family).texts == tuple(f"{index:064x}" for index in (0, 1, 2, 3, 6))


def test_of_the_shipped_families_llama_alone_has_to_be_agreed_to(settings: Settings) -> None:
    asked = {family.name for family in catalog.shipped() if not is_accepted(settings, terms_of(family))}
    assert asked == {"llama"}
