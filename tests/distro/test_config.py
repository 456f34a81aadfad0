"""Settings: flag, environment, file, default, in this order; a file is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro import config
from distro.errors import MalformedManifestError, UsageError
from distro.manners.schedule import Schedule, Window


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
    ("files_at_once = 0", "files_at_once"), ("files_at_once = true", "files_at_once"),
    ("home = ", "TOML"), ("home = '\xff", "TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field"), BAD)
def test_a_wrong_value_is_named_with_what_is_allowed(text: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedManifestError) as caught:
        config.load(_folder(tmp_path, text))
    assert caught.value.field == field
    assert "class" not in str(caught.value)


def test_limits_hours_and_mirrors_from_each_place(tmp_path: Path) -> None:
    file = _folder(
        tmp_path,
        'limit = ["20MB/s", "hub=500k"]\nwhen = "22:00-06:00"\n'
        'mirrors = "hub=https://mirror.org"\nstate_folder = "/s"\n',
    )
    settings = config.load(file)
    assert settings.limits == (("", 20_000_000), ("hub", 500_000))
    assert settings.schedule == Schedule((Window(22 * 60, 6 * 60),))
    assert (settings.mirrors, settings.state_folder) == (("hub=https://mirror.org",), Path("/s"))
    env = {"DISTRO_LIMIT": "swarm=1MB/s 2MB/s", "DISTRO_WHEN": "1:00-2:00,3:00-4:00", "DISTRO_STATE": "/t",
           "DISTRO_MIRRORS": "https://a/ https://b/{model}/"}  # fmt: skip
    settings = config.load(file | env)
    assert settings.limits == (("", 2_000_000), ("swarm", 1_000_000))
    assert settings.schedule == Schedule((Window(60, 120), Window(180, 240)))
    assert (settings.mirrors, settings.state_folder) == (("https://a/", "https://b/{model}/"), Path("/t"))
    assert config.load(file | env, limits=()).limits == ()


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        ("limit = 20", "limit", "allowed a text, or several in a list"),
        ('limit = "fast"', "limit", "allowed a rate such as"),
        ('limit = ["1MB/s", "2MB/s"]', "limit", "allowed one limit for all together"),
        ('limit = "disk=1MB/s"', "limit", "allowed limits of hub, mirror, lan, swarm, index, or of all together"),
        ('limit = "0"', "limit", "allowed a rate"),
        ('when = "night"', "when", "allowed hours such as"),
        ("when = [1]", "when", "allowed a text"),
        ('mirrors = ["host"]', "mirrors", "allowed hub=https://HOST"),
    ],
)
def test_what_is_no_limit_no_hours_no_mirror(text: str, field: str, allowed: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedManifestError, match=allowed) as caught:
        config.load(_folder(tmp_path, text))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("variable", "text"), [("DISTRO_LIMIT", "fast"), ("DISTRO_WHEN", "1-7"), ("DISTRO_MIRRORS", "https://a/ b")]
)
def test_a_variable_that_is_wrong_is_named(variable: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{variable}: found .*, allowed"):
        config.load({"DISTRO_CONFIG": str(tmp_path), variable: text})
