"""What other tools keep on this machine: found where they put it, adopted by digest, never changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distro import config
from distro.config import Settings
from distro.errors import NotThereError
from distro.fetch import fetch
from distro.fetching.preview import preview
from distro.manifest import File, Model, Variant
from distro.progress import Silent
from distro.sources.caches import HUB, Cache, caches_of
from distro.sources.local import CacheSource
from distro.store import Store
from tests.fakes.hub import git_sha1, sha256

DATA = b"weights" * 1000
OTHER = DATA[:-1] + b"!"
GGUF = File("tiny-Q4_0.gguf", len(DATA), sha256=sha256(DATA))
INSIDE = File("Q4_0/tiny-Q4_0.gguf", len(DATA), sha256=sha256(DATA))


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


PLACES = [
    (HUB, GGUF, f"models--o--n/blobs/{sha256(DATA)}"),
    (HUB, replace(GGUF, sha256=None, git_sha1=git_sha1(DATA)), f"models--o--n/blobs/{git_sha1(DATA)}"),
    ("Ollama", GGUF, f"blobs/sha256-{sha256(DATA)}"),
    ("Ollama", GGUF, f"blobs/sha256:{sha256(DATA)}"),
    ("LM Studio", GGUF, "publisher/tiny-GGUF/tiny-Q4_0.gguf"),
    ("LM Studio", INSIDE, "publisher/tiny-GGUF/Q4_0/tiny-Q4_0.gguf"),
    ("LM Studio", INSIDE, "publisher/tiny-GGUF/tiny-Q4_0.gguf"),
    ("llama.cpp", GGUF, "owner_tiny-GGUF_tiny-Q4_0.gguf"),
    ("llama.cpp", INSIDE, "owner_tiny-GGUF_Q4_0_tiny-Q4_0.gguf"),
    ("llama.cpp", GGUF, "tiny-Q4_0.gguf"),
    ("llama.cpp", GGUF, f"models--o--n/blobs/{sha256(DATA)}"),
]
IDS = [f"{tool}-{path.partition(sha256(DATA))[0]}" for tool, _, path in PLACES]


def _put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _settings(tmp_path: Path, *tools: tuple[str, Path]) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", offline=True, tool_folders=tools)


def _model(*files: File) -> tuple[Model, Variant]:
    variant = Variant("gguf", "gguf", files)
    return Model("tiny", 0, "", "gguf", (variant,)), variant


@pytest.mark.parametrize(("tool", "file", "place"), PLACES, ids=IDS)
def test_a_file_is_found_where_the_tool_puts_it(tmp_path: Path, tool: str, file: File, place: str) -> None:
    path = _put(tmp_path / "tool" / place)
    assert list(Cache(tool, tmp_path / "tool").candidates(file)) == [path]


@pytest.mark.parametrize(("tool", "file", "place"), PLACES, ids=IDS)
def test_it_is_adopted_without_a_network_and_left_as_it_was(tmp_path: Path, tool: str, file: File, place: str) -> None:
    theirs = _put(tmp_path / "tool" / place)
    theirs.chmod(0o444)
    before = theirs.stat()
    ours = fetch(_settings(tmp_path, (tool, tmp_path / "tool")), *_model(file), progress=Silent())
    assert ours.read_bytes() == DATA
    assert (ours.stat().st_ino, ours.stat().st_nlink) != (before.st_ino, before.st_nlink)
    assert ours.stat().st_ino != before.st_ino
    ours.write_bytes(b"edited by its owner")
    after = theirs.stat()
    assert theirs.read_bytes() == DATA
    assert (after.st_mode, after.st_nlink, after.st_mtime_ns) == (before.st_mode, 1, before.st_mtime_ns)
    receipt = Store(tmp_path / "home").receipt("tiny", "gguf")
    assert receipt is not None
    assert receipt.files[file.path].source == f"{tool} {tmp_path / 'tool'}"


@pytest.mark.parametrize(("tool", "file", "place"), PLACES[2:8], ids=IDS[2:8])
def test_the_dry_run_says_where_it_is(tmp_path: Path, tool: str, file: File, place: str) -> None:
    _put(tmp_path / "tool" / place)
    (look,) = preview(_settings(tmp_path, (tool, tmp_path / "tool")), *_model(file)).looks
    assert (look.state, look.near, look.to_fetch, look.to_write) == ("near", tool, 0, len(DATA))


def test_of_several_of_that_name_and_size_the_right_one_is_taken(tmp_path: Path) -> None:
    """Nothing is copied of those that are not it, nor kept as wrong: nobody said that they are."""
    for publisher, data in (("a", OTHER), ("b", DATA), ("c", OTHER)):
        _put(tmp_path / "lm" / publisher / "tiny" / "tiny-Q4_0.gguf", data)
    ours = fetch(_settings(tmp_path, ("LM Studio", tmp_path / "lm")), *_model(GGUF), progress=Silent())
    assert ours.read_bytes() == DATA
    assert list((tmp_path / "home" / "partial").glob("*.wrong")) == []


def test_a_blob_that_was_damaged_is_passed_over_for_the_next_place(tmp_path: Path) -> None:
    _put(tmp_path / "ollama" / "blobs" / f"sha256-{sha256(DATA)}", OTHER)
    _put(tmp_path / "lm" / "a" / "b" / "tiny-Q4_0.gguf")
    tools = (("Ollama", tmp_path / "ollama"), ("LM Studio", tmp_path / "lm"))
    progress = Heard()
    assert fetch(_settings(tmp_path, *tools), *_model(GGUF), progress=progress).read_bytes() == DATA
    assert any(line.startswith("tiny-Q4_0.gguf from Ollama") and "sha256 is" in line for line in progress.lines)


@pytest.mark.parametrize("tool", [HUB, "Ollama", "LM Studio", "llama.cpp"])
def test_what_lacks_it_is_not_spoken_of(tmp_path: Path, tool: str) -> None:
    _put(tmp_path / "tool" / "a" / "b" / "tiny-Q4_0.gguf", OTHER)
    _put(tmp_path / "tool" / "owner_tiny_tiny-Q4_0.gguf", DATA[:-1])
    with Store(tmp_path / "home").partial("m", "v", GGUF) as partial, pytest.raises(NotThereError):
        CacheSource(Cache(tool, tmp_path / "tool")).transfer(GGUF, partial, Silent().bar("", None))
    progress = Heard()
    with pytest.raises(NotThereError):
        fetch(_settings(tmp_path, (tool, tmp_path / "tool")), *_model(GGUF), progress=progress)
    assert progress.lines == []


def test_a_name_alone_proves_nothing(tmp_path: Path) -> None:
    """What nobody published a digest of is never taken because of its name."""
    _put(tmp_path / "a" / "b" / "model.safetensors")
    assert list(Cache("LM Studio", tmp_path).candidates(File("model.safetensors", len(DATA)))) == []


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    _put(tmp_path / "a" / "b" / "tiny1.gguf")
    file = File("tiny[0-9].gguf", len(DATA), sha256=sha256(DATA))
    assert list(Cache("LM Studio", tmp_path).candidates(file)) == []
    path = _put(tmp_path / "a" / "b" / "tiny[0-9].gguf")
    assert list(Cache("LM Studio", tmp_path).candidates(file)) == [path]


def test_links_are_followed_and_loops_are_none(tmp_path: Path) -> None:
    theirs = _put(tmp_path / "elsewhere" / "blob")
    for name in ("a", "b"):
        (tmp_path / "lm" / name / "tiny").mkdir(parents=True)
    (tmp_path / "lm" / "a" / "tiny" / "tiny-Q4_0.gguf").symlink_to(tmp_path / "lm" / "a" / "tiny" / "tiny-Q4_0.gguf")
    (tmp_path / "lm" / "b" / "tiny" / "tiny-Q4_0.gguf").symlink_to(theirs)
    ours = fetch(_settings(tmp_path, ("LM Studio", tmp_path / "lm")), *_model(GGUF), progress=Silent())
    assert ours.read_bytes() == DATA
    assert not ours.is_symlink()


def test_folders_that_are_not_there_or_not_ours_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    tools = (("Ollama", tmp_path / "file" / "models"), ("LM Studio", tmp_path / "none"), ("llama.cpp", tmp_path))
    assert caches_of(_settings(tmp_path, *tools)) == [Cache("llama.cpp", tmp_path)]


def test_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folders = config.load({"DISTRO_CONFIG": str(tmp_path)}).tool_folders
    assert folders[:4] == (
        ("Ollama", Path("/h/.ollama/models")),
        ("Ollama", Path("/usr/share/ollama/.ollama/models")),
        ("LM Studio", Path("/h/.lmstudio/models")),
        ("LM Studio", Path("/h/.cache/lm-studio/models")),
    )
    assert folders[4][0] == "llama.cpp"
    moved = {"DISTRO_CONFIG": str(tmp_path), "OLLAMA_MODELS": "/big/ollama", "LLAMA_CACHE": "/big/llama"}
    found = config.load(moved).tool_folders
    assert (found[0], found[4]) == (("Ollama", Path("/big/ollama")), ("llama.cpp", Path("/big/llama")))
