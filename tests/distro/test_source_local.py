"""Files that are on this machine already: copied, and proven above."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.errors import NotThereError
from distro.manifest import File
from distro.progress import Bar, SilentBar
from distro.sources.base import Source
from distro.sources.caches import HUB, Cache
from distro.sources.local import CacheSource, FolderSource
from distro.store import Store
from tests.fakes.hub import git_sha1, sha256

DATA = b"weights" * 1000
FILE = File("sub/model.bin", len(DATA), sha256=sha256(DATA))


class CountingBar(SilentBar):
    n_bytes = 0

    def advance(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes


def _transfer(source: Source, file: File, home: Path, bar: Bar | None = None) -> bytes:
    with Store(home).partial("m", "v", file) as partial:
        source.transfer(file, partial, bar or SilentBar())
        return partial.path.read_bytes()


def test_a_folder_has_a_file_under_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    (tmp_path / "mine" / "sub" / "model.bin").write_bytes(DATA)
    bar = CountingBar()
    assert _transfer(FolderSource(tmp_path / "mine"), FILE, tmp_path / "home", bar) == DATA
    assert bar.n_bytes == len(DATA)
    assert (tmp_path / "mine" / "sub" / "model.bin").read_bytes() == DATA


def test_a_copy_is_not_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.bin").write_bytes(DATA)
    with Store(tmp_path / "home").partial("m", "v", FILE) as partial:
        FolderSource(tmp_path).transfer(FILE, partial, SilentBar())
        assert partial.path.stat().st_ino != (tmp_path / "sub" / "model.bin").stat().st_ino


@pytest.mark.parametrize("made", ["nothing", "short", "folder", "loop"])
def test_a_folder_without_it_says_so(tmp_path: Path, made: str) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "model.bin"
    match made:
        case "short":
            path.write_bytes(DATA[:-1])
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    with pytest.raises(NotThereError):
        _transfer(FolderSource(tmp_path), FILE, tmp_path / "home")


@pytest.mark.parametrize(
    ("file", "blob"),
    [(FILE, sha256(DATA)), (File("x", len(DATA), git_sha1=git_sha1(DATA)), git_sha1(DATA))],
    ids=["LFS", "git"],
)
def test_the_hubs_cache_is_searched_by_digest(tmp_path: Path, file: File, blob: str) -> None:
    blobs = tmp_path / "hub" / "models--some--body" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / blob).write_bytes(DATA)
    assert _transfer(CacheSource(Cache(HUB, tmp_path / "hub")), file, tmp_path / "home") == DATA


def test_a_cache_that_huggingface_hub_made(tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    from tests.fakes.hub import serving

    with serving() as hub:
        hub.add("owner/model", {"model.safetensors": DATA, "config.json": b"{}"})
        snapshot_download("owner/model", endpoint=hub.url, cache_dir=tmp_path / "hub")
    source = CacheSource(Cache(HUB, tmp_path / "hub"))
    assert _transfer(source, FILE, tmp_path / "home") == DATA
    config = File("config.json", 2, git_sha1=git_sha1(b"{}"))
    assert _transfer(source, config, tmp_path / "home") == b"{}"


def test_a_cache_without_it_says_so(tmp_path: Path) -> None:
    for file in (FILE, File("unproven", 1)):
        with pytest.raises(NotThereError):
            _transfer(CacheSource(Cache(HUB, tmp_path)), file, tmp_path / "home")
