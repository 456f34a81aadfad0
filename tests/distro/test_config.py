"""Settings: flag, environment, file, default, in this order; a file is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro import config
from distro.errors import MalformedManifestError


def _folder(tmp_path: Path, text: str) -> dict[str, str]:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    return {"DISTRO_CONFIG": str(tmp_path)}


def test_each_place_goes_before_the_next(tmp_path: Path) -> None:
    file = _folder(tmp_path, 'home = "/from/file"\nhub_endpoint = "https://file"\ntimeout_s = 5\n')
    settings = config.load(file | {"HF_ENDPOINT": "https://environment/"}, offline=True)
    assert (settings.home, settings.hub_endpoint, settings.timeout_s) == (Path("/from/file"), "https://environment", 5)
    assert settings.offline
    assert settings.retries == 5
    assert config.load(file | {"DISTRO_HOME": "/e"}, home=None).home == Path("/e")
    assert config.load(file | {"DISTRO_HOME": "/e"}, home=Path("/f")).home == Path("/f")


def test_the_hubs_own_variables_are_honoured(tmp_path: Path) -> None:
    env = {"DISTRO_CONFIG": str(tmp_path), "HF_TOKEN": "secret", "HF_HOME": "/hf", "HF_HUB_OFFLINE": "1"}
    settings = config.load(env)
    assert (settings.hub_token, settings.hub_cache, settings.offline) == ("secret", Path("/hf/hub"), True)
    assert "secret" not in repr(settings)
    assert config.load(env | {"HF_HUB_CACHE": "/cache"}).hub_cache == Path("/cache")


BAD = [
    ("timeout_s = nan", "timeout_s"), ("timeout_s = 0", "timeout_s"), ("timeout_s = inf", "timeout_s"),
    ('timeout_s = "5"', "timeout_s"), ("timeout_s = true", "timeout_s"), ("retries = -5", "retries"),
    ("retries = 1.5", "retries"), ("retries = true", "retries"), ('hub_endpoint = "file:///etc"', "hub_endpoint"),
    ('home = ""', "home"), ("home = 1", "home"), ('offline = "yes"', "offline"), ("surprise = 1", "surprise"),
    ("home = ", "TOML"), ("home = '\xff", "TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field"), BAD)
def test_a_wrong_value_is_named_with_what_is_allowed(text: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedManifestError) as caught:
        config.load(_folder(tmp_path, text))
    assert caught.value.field == field
    assert "class" not in str(caught.value)
