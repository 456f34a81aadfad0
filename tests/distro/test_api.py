"""The README's lines of Python, as a program would run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.api import convert, fetch, open_model
from distro.config import Settings
from distro.errors import NotFoundError, NotPermittedError, UsageError
from distro.manifest import License
from tests.fakes.fetching import Distro
from tests.fakes.hub import serving


def test_fetch_convert_answer(smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model lies in a hub cache under its digest, where fetch looks before it asks any network."""
    monkeypatch.setenv("DISTRO_HOME", str(tmp_path / "home"))
    blobs = tmp_path / "cache" / "models--any--name" / "blobs"
    blobs.mkdir(parents=True)
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    (blobs / digest).symlink_to(smollm2_gguf)
    settings = Settings(tmp_path / "home", tmp_path / "config", hub_cache=tmp_path / "cache", offline=True)

    weights = fetch("smollm2-135m-instruct", settings=settings)
    small = convert(weights, "q8_0", tmp_path / "small.gguf", check=False)

    assert weights == tmp_path / "home/models/smollm2-135m-instruct/q4_1/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert small == tmp_path / "small.gguf"
    with open_model(small) as model:
        assert model.answer("What is the capital of France?", max_tokens=16) == "The capital of France is Paris."


def test_an_unknown_name_is_an_exception(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean"):
        fetch("smollm2-135m-instruckt", settings=Settings(tmp_path / "home", tmp_path / "config"))


def test_a_licence_is_agreed_to_by_a_program_and_nobody_is_asked(tmp_path: Path) -> None:
    with serving() as hub:
        Distro(tmp_path, hub).publish(
            {"config.json": b"{}"}, License("LicenseRef-Strict", "https://example.org/strict", "forbidden")
        )
        settings = Settings(
            tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, state_folder=tmp_path / "state"
        )  # fmt: skip
        with pytest.raises(NotPermittedError) as caught:
            fetch("tiny", settings=settings)
        assert str(caught.value) == (
            "tiny:hf: is under LicenseRef-Strict, which may not be passed on: https://example.org/strict; nobody "
            "agreed to it yet; accept_license='LicenseRef-Strict' does"
        )
        with pytest.raises(UsageError, match="found MIT, the licence of tiny:hf is LicenseRef-Strict"):
            fetch("tiny", accept_license="MIT", settings=settings)
        assert hub.requests == []
        assert fetch("tiny", accept_license="licenseref-strict", settings=settings).read_bytes() == b"{}"
        assert fetch("tiny", settings=settings).read_bytes() == b"{}"  # agreed to once
