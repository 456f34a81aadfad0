"""Mirrors as the user writes them, where they have a variant, and in which order they are asked next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import UsageError
from distro.manifest import File, Model, Variant
from distro.manners.mirrors import Mirror, mirrors_of, parse_mirrors, remember

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TWO = Variant(
    "hf", "safetensors", (File("a", 1), File("b", 2)), (f"hf:owner/name@{COMMIT}", "hf:owner/other", "index:p==1/f")
)
ONE = Variant("q4_0", "gguf", (File("a.gguf", 1),))


def _model(*variants: Variant, name: str = "tiny-1b") -> Model:
    return Model(name, 0, "", variants[0].name, variants)


def _settings(tmp_path: Path, *mirrors: str) -> Settings:
    return Settings(tmp_path, tmp_path, state_folder=tmp_path / "state", mirrors=parse_mirrors(mirrors))


@pytest.mark.parametrize(
    "text",
    ["", "host", "ftp://host/", "https://", "hub=host", "https://host/{path}/", "https://{model}/", "hub=https://h/{model}",
     "https://host/?token=1", "https://ho st/", "https://a/,b{c", "file:///x/", "https://host/#x"],
)  # fmt: skip
def test_what_is_no_mirror(text: str) -> None:
    with pytest.raises(ValueError, match="allowed hub=https://HOST"):
        parse_mirrors([text])


def test_where_a_mirror_has_a_variant(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        "hub=https://mirror.org/",
        "https://lan/{model}/{variant}/",
        "http://lan:8080/x/",
        "http://lan:8080/x/",
    )
    assert mirrors_of(settings, _model(TWO, name="owner/name"), TWO) == (
        Mirror("hub=https://mirror.org/", f"https://mirror.org/owner/name/resolve/{COMMIT}/"),
        Mirror("https://lan/{model}/{variant}/", "https://lan/owner--name/hf/"),
        Mirror("http://lan:8080/x/", "http://lan:8080/x/"),
    )
    assert [mirror.source for mirror in mirrors_of(settings, _model(ONE), ONE)] == [
        "https://lan/tiny-1b/q4_0/", "http://lan:8080/x/",
    ]  # fmt: skip


def test_the_address_of_one_file_is_for_one_file(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "https://host/a.gguf")
    assert mirrors_of(settings, _model(ONE), ONE) == (Mirror("https://host/a.gguf", "https://host/a.gguf"),)
    with pytest.raises(UsageError, match="one address for 2 files"):
        mirrors_of(settings, _model(TWO), TWO)


def test_one_that_failed_comes_last_until_it_works_again(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "https://one/", "https://two/", "https://three/")

    def order() -> list[str]:
        return [mirror.address for mirror in mirrors_of(settings, _model(ONE), ONE)]

    one, two, _ = mirrors_of(settings, _model(ONE), ONE)
    remember(settings, one, worked=False)
    assert order() == ["https://two/", "https://three/", "https://one/"]
    remember(settings, two, worked=False)
    assert order() == ["https://three/", "https://one/", "https://two/"]
    remember(settings, one, worked=True)
    assert order() == ["https://one/", "https://three/", "https://two/"]
    state = tmp_path / "state" / "mirrors.json"
    assert state.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"failed": 3}', b'{"failed": {"https://one/": "yesterday"}}', b"[" * 100_000, b"\xff\xfe",
     b'{"failed": {"https://one/": 4e9}}', b'{"failed": {"https://one/": 1e400}}',
     b'{"failed": {"https://one/": 1.5}}', b'{"failed": {"https://one/": true}}', b'{"failed": {"https://one/": NaN}}'],
)  # fmt: skip
def test_a_broken_or_ancient_memory_says_nothing_and_is_mended(tmp_path: Path, content: bytes) -> None:
    settings = _settings(tmp_path, "https://one/", "https://two/")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "mirrors.json").write_bytes(content)
    one, two = mirrors_of(settings, _model(ONE), ONE)
    assert one.address == "https://one/"
    remember(settings, one, worked=False)
    assert mirrors_of(settings, _model(ONE), ONE) == (two, one)


def test_what_cannot_be_kept_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    settings = _settings(tmp_path, "https://one/", "https://two/")
    one, two = mirrors_of(settings, _model(ONE), ONE)
    remember(settings, one, worked=False)
    assert mirrors_of(settings, _model(ONE), ONE) == (one, two)
