"""What a fetch would do, looked up without writing anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.config import Settings
from distro.fetch_as import fetch_as
from distro.fetching.preview import Look, conversion, fitting, preview
from distro.lookup import wanted
from distro.manifest import File, Model, Variant
from distro.manners.choice import Choice
from distro.progress import Silent
from distro.store import Store
from tests.fakes import tiny_llama
from tests.fakes.hub import serving, sha256
from tests.fakes.store import put

DATA = bytes(range(256)) * 40
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tmp_path / "home", tmp_path / "config", hub_cache=tmp_path / "cache", mirrors=("hub=https://m.org",)
    )


def _model(files: tuple[File, ...]) -> tuple[Model, Variant]:
    variant = Variant("hf", "safetensors", files, (f"hf:owner/tiny@{COMMIT}", "https://host/tiny/"))
    others = (Variant("q4_0", "gguf", (File("a", 700),)), Variant("q8_0", "gguf", (File("b", 900),)))
    return Model("tiny", 0, "", "hf", (variant, *others, Variant("pth", "pth", (File("c"),)))), variant


def _file(path: str, data: bytes = DATA) -> File:
    return File(path, len(data), sha256=sha256(data))


def _look(settings: Settings, file: File, **options: object) -> Look:
    model, variant = _model((file, _file("other")))
    found = preview(settings, model, variant, wanted=Choice((file.path,)), **options)  # type: ignore[arg-type]
    (look,) = found.looks
    return look


def _untouched(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_nothing_is_here(settings: Settings, tmp_path: Path) -> None:
    model, variant = _model((_file("a/model.bin"), File("small", 3, git_sha1="0" * 40), File("unproven", 5)))
    found = preview(settings, model, variant)
    assert found.place == tmp_path / "home" / "models" / "tiny" / "hf"
    assert [(look.file.path, look.proof, look.state, look.to_fetch, look.to_write) for look in found.looks] == [
        ("a/model.bin", "sha256", "missing", len(DATA), len(DATA)),
        ("small", "git_sha1", "missing", 3, 3),
        ("unproven", None, "missing", 5, 5),
    ]
    assert found.to_fetch == found.needed == len(DATA) + 8
    assert found.free > 0
    mirror = f"https://m.org/owner/tiny/resolve/{COMMIT}/"
    assert found.sources == (mirror, f"hf:owner/tiny@{COMMIT}", "https://host/tiny/")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_nobody_published_makes_the_sum_unknown(settings: Settings) -> None:
    model, variant = _model((_file("a"), File("b", sha256="0" * 64)))
    found = preview(settings, model, variant)
    assert (found.to_fetch, found.needed) == (None, None)


def test_what_is_here_by_its_receipt_or_without_one(settings: Settings) -> None:
    folder = put(settings.home, "tiny", "hf", {"model.bin": DATA})
    assert _look(settings, _file("model.bin")) == Look(_file("model.bin"), "sha256", "here", arrived=len(DATA))
    (folder / "extra.bin").write_bytes(DATA)
    assert _look(settings, _file("extra.bin")).state == "unproven"
    changed = File("model.bin", len(DATA), sha256="0" * 64)  # the manifest says another digest than the receipt
    assert _look(settings, changed).state == "unproven"
    (folder / "receipt.json").write_text("{")
    assert _look(settings, _file("model.bin")).state == "unproven"


def test_a_file_of_another_size_is_fetched_again(settings: Settings) -> None:
    put(settings.home, "tiny", "hf", {"model.bin": DATA[:-1]})
    assert _look(settings, _file("model.bin")).state == "missing"


def test_what_arrived_before_is_not_fetched_again(settings: Settings, tmp_path: Path) -> None:
    file = _file("model.bin")
    with Store(settings.home).partial("tiny", "hf", file) as partial:
        partial.append(DATA[:4000])
    before = _untouched(tmp_path)
    assert _look(settings, file) == Look(file, "sha256", "partial", None, 4000, len(DATA) - 4000, len(DATA) - 4000)
    assert _untouched(tmp_path) == before


@pytest.mark.parametrize("where", ["folder", "cache", "store"])
def test_a_copy_that_is_near_needs_no_network(settings: Settings, tmp_path: Path, where: str) -> None:
    file = _file("model.bin")
    path = {
        "folder": tmp_path / "usb" / "model.bin",
        "cache": tmp_path / "cache" / "models--a--b" / "blobs" / str(file.sha256),
        "store": tmp_path / "home" / "models" / "tiny" / "hf" / "model.bin",
    }[where]
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    look = _look(settings, file, folder=tmp_path / "usb", target=tmp_path / "out")
    names = {"folder": f"folder {tmp_path}/usb", "cache": "hub cache", "store": "our store"}
    assert look == Look(file, "sha256", "near", names[where], 0, 0, len(DATA))
    path.write_bytes(DATA[:-1])
    assert _look(settings, file, folder=tmp_path / "usb", target=tmp_path / "out").state == "missing"


def test_a_loop_of_links_is_no_copy(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "model.bin").symlink_to(tmp_path / "usb" / "model.bin")
    assert _look(settings, _file("model.bin"), folder=tmp_path / "usb").state == "missing"


def test_variants_that_fit_the_largest_first() -> None:
    model, _ = _model((_file("a"),))
    assert [variant.name for variant in fitting(model, 899)] == ["q4_0"]
    assert [variant.name for variant in fitting(model, 10_000)] == ["q8_0", "q4_0"]
    assert fitting(model, 699) == []


def test_the_size_of_a_conversion_is_known_before_anything_is_here(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "source")
    with serving() as hub:
        hub.add("owner/tiny", {path.name: path.read_bytes() for path in folder.iterdir()})
        settings = Settings(tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, timeout_s=5.0)
        resolved = wanted(settings, "hf:owner/tiny")
        made = conversion(settings, resolved.model, resolved.variant, "q8_0")
        assert not (tmp_path / "home").exists()
        done = fetch_as(settings, resolved, "q8_0", threads=2, progress=Silent())
        assert made.size == done.path.stat().st_size
        hub.requests.clear()
        assert conversion(settings, resolved.model, resolved.variant, "q8_0").size == made.size
        assert hub.requests == []  # it is here now
