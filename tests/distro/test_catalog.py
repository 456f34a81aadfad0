from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distro import catalog
from distro.catalog import Catalog
from distro.config import Settings
from distro.errors import MalformedManifestError, NotFoundError, UsageError
from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump

ROOT = Path(__file__).parent.parent.parent


def _settings(base: Path) -> Settings:
    return Settings(home=base / "home", config_folder=base / "config")


def _family(name: str, *models: Model) -> str:
    return dump(Family(name, "us", License("MIT", "https://example.org/", "allowed"), models))


def _model(name: str, *aliases: str) -> Model:
    files = (File("a.gguf", 4, sha256="1" * 64),)
    variants = (Variant("q4_k_m", "gguf", files), Variant("hf", "safetensors", files))
    return Model(name, 7, "llama", "hf", variants, aliases)


def _write(folder: Path, **manifests: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in manifests.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct:q4_1"),
        ("smollm2-135m-instruct:hf", "smollm2-135m-instruct:hf"),
        ("SmolLM2_135M_Instruct:Q4-1", "smollm2-135m-instruct:q4_1"),
        ("llama-33b", "llama-30b:hf"),
        ("llama-33b:Q4-0", "llama-30b:q4_0"),
        ("mistral-7b-v0.1:q4-k-m", "mistral-7b:q4_k_m"),
        ("mistral-7b", "mistral-7b:hf"),
    ],
)
def test_a_name_means_a_variant(reference: str, expected: str, tmp_path: Path) -> None:
    resolved = catalog.load(_settings(tmp_path)).resolve(reference)
    assert str(resolved) == expected
    assert resolved.family is not None


def test_an_unknown_name_suggests_three_near_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        catalog.load(_settings(tmp_path)).resolve("lama-13")
    assert caught.value.near[0] == "llama-13b"
    assert len(caught.value.near) == 3
    assert str(caught.value).startswith("lama-13: no such model (`distro ls` shows all); did you mean llama-13b, ")


def test_an_unknown_variant_lists_what_there_is(tmp_path: Path) -> None:
    message = "^smollm2-135m-instruct: no variant q9; there are q4_1, hf$"
    with pytest.raises(NotFoundError, match=message):
        catalog.load(_settings(tmp_path)).resolve("smollm2-135m-instruct:q9")


def test_the_users_manifest_goes_before_the_shipped_one(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    _write(settings.config_folder / "manifests", mine=_family("mine", _model("llama-7b"), _model("my-model")))
    found = catalog.load(settings)
    assert found.resolve("llama-7b").model.parameters == 7
    assert found.resolve("my-model:Q4_K_M").variant.name == "q4_k_m"
    assert found.resolve("llama-13b").model.parameters == 13_015_864_320
    assert [model.name for _, model in found.models()].count("llama-7b") == 1


def test_a_manifest_is_read_once_and_only_when_it_is_reached(tmp_path: Path) -> None:
    first = _write(tmp_path / "first", a=_family("a", _model("one", "uno")))
    second = _write(tmp_path / "second", b="broken")
    found = Catalog([first, second])
    assert found.resolve("uno").model.name == "one"
    (first / "a.toml").write_text("broken")  # M21: what was judged is what is used
    assert found.resolve("one").model.name == "one"
    with pytest.raises(MalformedManifestError, match=r"b\.toml: TOML at line 1:7"):
        found.resolve("two")


def test_two_readers_at_once_see_every_family(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m", **{name: _family(name, _model(name)) for name in ("a", "b", "c")})
    found = Catalog([folder])
    one, other = found.families(), found.families()
    assert next(one).name == "a"
    assert [family.name for family in other] == ["a", "b", "c"]
    assert [family.name for family in one] == ["b", "c"]


def test_a_manifest_on_the_disk_is_a_reference(tmp_path: Path) -> None:
    folder = _write(tmp_path, one=_family("one", _model("a")), two=_family("two", _model("a"), _model("b")))
    found = Catalog([])
    assert str(found.resolve(str(folder / "one.toml"))) == "a:hf"
    with pytest.raises(UsageError, match=r"two\.toml: describes a, b"):
        found.resolve(str(folder / "two.toml"))
    with pytest.raises(NotFoundError, match=r"none\.toml: no such manifest"):
        found.resolve(str(folder / "none.toml"))


@pytest.mark.parametrize("reference", ["hf:owner/repo", "./model.gguf", "https://example.org/m.toml", "x.torrent"])
def test_what_manifests_cannot_answer_is_said(reference: str) -> None:
    with pytest.raises(UsageError, match="not a name that manifests know"):
        Catalog([]).resolve(reference)


def test_looking_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from distro import catalog; from distro.config import Settings\n"
        "catalog.load(Settings(Path('none'), Path('none'))).resolve('mistral-7b')\n"
        "print(sorted({'numpy', 'torch', 'libtorrent', 'huggingface_hub', 'httpx2'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"
