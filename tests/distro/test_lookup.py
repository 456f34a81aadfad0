from __future__ import annotations

from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import NotFoundError, UsageError
from distro.lookup import local, local_path
from distro.receipt import Entry, Receipt
from distro.store import Store
from tests.fakes.store import put

V2 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
V1 = "208b101a0f51514ecf285885a8b0f6fb1a1e4d7d"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", config_folder=tmp_path / "config")


def _put(settings: Settings, model: str, variant: str, *names: str, made_here: bool = False) -> Path:
    return put(settings.home, model, variant, dict.fromkeys(names, b"x"), made_here=made_here)


def test_a_name_is_the_only_file_of_its_variant(settings: Settings) -> None:
    folder = _put(settings, "smollm2-135m-instruct", "q4_1", "a.gguf")
    found = local(settings, "SmolLM2-135M-Instruct")
    assert (found.path, found.model, found.variant) == (folder / "a.gguf", "smollm2-135m-instruct", "q4_1")
    assert found.declares("HF")
    assert not found.declares("q8_0")


def test_a_folder_of_many_files_is_a_folder_unless_one_gguf_stands_out(settings: Settings) -> None:
    folder = _put(settings, "smollm2-135m-instruct", "hf", "model.safetensors", "config.json")
    assert local_path(settings, "smollm2-135m-instruct:hf") == folder
    torrent = _put(settings, f"torrent-{V2[:16]}", "gguf", "m/model.gguf", "README.md")
    assert local_path(settings, f"torrent-{V2[:16]}") == torrent / "m/model.gguf"


def test_what_was_made_here_has_a_name_too(settings: Settings) -> None:
    folder = _put(settings, "llama-30b", "q8_0-mine", "a.gguf", made_here=True)
    assert local_path(settings, "llama-33b:Q8-0_mine") == folder / "a.gguf"


def test_hub_repositories_and_torrents_are_found_by_what_they_were_fetched_with(settings: Settings) -> None:
    folder = _put(settings, "owner/name", "0123456789ab", "a.gguf", "b.gguf")
    for reference in ("hf:owner/name", "hf:owner/name@0123456", "hf:owner/name@0123456789ab" + "c" * 28):
        assert local_path(settings, reference) == folder
    torrent = _put(settings, f"torrent-{V2[:16]}", "gguf", "model.gguf")
    magnet = f"magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=x"
    assert local_path(settings, magnet) == torrent / "model.gguf"


@pytest.mark.parametrize("known_by", ["its sources", "its files"])
def test_a_hybrid_torrent_is_found_by_its_v1_link(settings: Settings, known_by: str) -> None:
    """It is named after its v2 infohash, which a link of old clients does not have."""
    sources = (f"magnet:?xt=urn:btih:{V1}&dn=x",) if known_by == "its sources" else ("./x.torrent",)
    swarm = "folder /x" if known_by == "its sources" else f"swarm {V1[:16]}"
    entry = Entry("0" * 64, 1, swarm, "2026-01-31T12:00:00Z")
    store, model = Store(settings.home), f"torrent-{V2[:16]}"
    store.write_receipt(Receipt(f"torrent-{'9' * 16}", "gguf", "gguf", {}))
    store.write_receipt(Receipt(model, "gguf", "gguf", {"model.gguf": entry}, sources=sources))
    for magnet in (f"magnet:?xt=urn:btih:{V1}", f"magnet:?xt=urn:btih:{V1.upper()}&tr=http://x/"):
        assert local_path(settings, magnet) == store.folder(model, "gguf") / "model.gguf"
    with pytest.raises(NotFoundError, match="not here"):
        local_path(settings, f"magnet:?xt=urn:btih:{'0' * 40}")


def test_of_two_revisions_one_has_to_be_named(settings: Settings) -> None:
    _put(settings, "owner/name", "0123456789ab", "a.gguf")
    second = _put(settings, "owner/name", "ba9876543210", "a.gguf")
    with pytest.raises(NotFoundError, match="of this model there are 0123456789ab, ba9876543210"):
        local(settings, "hf:owner/name")
    assert local_path(settings, "hf:owner/name@ba9876543210") == second / "a.gguf"


def test_a_path_is_a_path(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()
    (tmp_path / "folder").mkdir()
    for text in ("./model.gguf", "model.gguf", "./folder", "folder", str(tmp_path / "folder")):
        found = local(settings, text)
        assert (found.path, found.model, found.published) == (Path(text), None, None)
        assert not found.declares("hf")


def test_a_name_goes_before_a_path_without_a_slash(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-7b").mkdir()
    folder = _put(settings, "llama-7b", "hf", "a", "b")
    assert local_path(settings, "llama-7b") == folder
    assert local_path(settings, "./llama-7b") == Path("llama-7b")


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("llama-7b", NotFoundError, "^llama-7b: not here, `distro fetch llama-7b` brings it$"),
        ("hf:owner/name", NotFoundError, "^hf:owner/name: not here, `distro fetch hf:owner/name` brings it$"),
        ("lama-7b", NotFoundError, "did you mean llama-7b"),
        ("./none", NotFoundError, "^none: no such file or folder$"),
        ("none.torrent", NotFoundError, r"^none\.torrent: no such file or folder$"),
        ("https://example.org/x.toml", UsageError, "only `distro fetch` can open this"),
    ],
)
def test_what_is_not_here_says_what_to_do(
    settings: Settings, reference: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        local(settings, reference)
