"""Settings: read from flags, the environment and a file here, and nowhere else.

Order: flag, environment, file, default. The file is `config.toml` in the configuration folder.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import platformdirs

from converters.errors import shown
from distro.errors import MalformedManifestError, UsageError
from distro.manners.mirrors import parse_mirrors
from distro.manners.schedule import Schedule, parse_schedule
from distro.quantity import parse_rate

_TRUE = {"1", "true", "yes", "on"}

# Kinds of sources that can have a limit of their own; what lies on this machine has none.
KINDS = ("hub", "mirror", "lan", "swarm", "index")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with units."""

    home: Path  # models, partial files
    config_folder: Path  # config.toml, manifests/ of the user's own
    hub_endpoint: str = "https://huggingface.co"
    hub_token: str | None = None  # None: huggingface_hub looks where its users put theirs
    hub_cache: Path | None = None  # files that other tools already hold
    tool_folders: tuple[
        tuple[str, Path], ...
    ] = ()  # the same of Ollama, LM Studio, llama.cpp (distro/sources/caches.py)
    offline: bool = False  # no network at all
    timeout_s: float = 30.0  # of silence on a connection
    retries: int = 5  # without progress, per file and source
    files_at_once: int = 8  # small ones of one fetch; each of the others comes alone, on many connections
    no_color: bool = False
    state_folder: Path | None = None  # accepted licences, what is known of mirrors; None: nothing is remembered
    limits: tuple[tuple[str, int], ...] = ()  # (one of KINDS, or "" for all together; bytes per second)
    schedule: Schedule | None = None  # when bytes may come; None: always
    mirrors: tuple[str, ...] = ()  # as distro/manners/mirrors.py explains them

    def __repr__(self) -> str:
        """As usual, except that a token never shows."""
        shown = (
            f"{f.name}={'…' if f.name == 'hub_token' and self.hub_token else repr(getattr(self, f.name))}"
            for f in fields(self)
        )
        return f"Settings({', '.join(shown)})"


def load(environment: Mapping[str, str] | None = None, **flags: object) -> Settings:
    """Settings for this run; flags that are None count as not given.

    Raises MalformedManifestError for a config.toml with an unknown key or a value of the wrong type.
    """
    env = os.environ if environment is None else environment
    config_folder = Path(env.get("DISTRO_CONFIG") or platformdirs.user_config_dir("weights-distro", appauthor=False))
    hf_home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    settings = Settings(
        home=Path(platformdirs.user_data_dir("weights-distro", appauthor=False)),
        config_folder=config_folder,
        hub_cache=hf_home / "hub",
        tool_folders=tuple(_tool_folders(env)),
        state_folder=Path(platformdirs.user_state_dir("weights-distro", appauthor=False)),
    )
    settings = replace(settings, **_from_file(config_folder / "config.toml"))  # type: ignore[arg-type]
    settings = replace(settings, **_from_environment(env))  # type: ignore[arg-type]
    given = {name: value for name, value in flags.items() if value is not None}
    return replace(settings, **given)  # type: ignore[arg-type]


def _tool_folders(env: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Where other tools keep models unless they were told otherwise; and where Ollama's service does on Linux."""
    home = Path.home()
    yield "Ollama", Path(env.get("OLLAMA_MODELS") or home / ".ollama" / "models")
    yield "Ollama", Path("/usr/share/ollama/.ollama/models")
    yield "LM Studio", home / ".lmstudio" / "models"
    yield "LM Studio", home / ".cache" / "lm-studio" / "models"
    yield "llama.cpp", Path(env.get("LLAMA_CACHE") or platformdirs.user_cache_dir("llama.cpp", appauthor=False))


def _from_environment(env: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    if env.get("DISTRO_HOME"):
        found["home"] = Path(env["DISTRO_HOME"])
    if env.get("HF_ENDPOINT"):
        found["hub_endpoint"] = env["HF_ENDPOINT"].rstrip("/")
    if env.get("HF_TOKEN"):
        found["hub_token"] = env["HF_TOKEN"]
    if env.get("HF_HUB_CACHE"):
        found["hub_cache"] = Path(env["HF_HUB_CACHE"])
    if env.get("HF_HUB_OFFLINE", "").lower() in _TRUE or env.get("DISTRO_OFFLINE", "").lower() in _TRUE:
        found["offline"] = True
    if env.get("NO_COLOR"):
        found["no_color"] = True
    if env.get("DISTRO_STATE"):
        found["state_folder"] = Path(env["DISTRO_STATE"])
    for name, (variable, parse) in _PARSED_VARIABLES.items():
        if env.get(variable):
            try:
                found[name] = parse(env[variable])
            except ValueError as error:
                raise UsageError(f"{variable}: found {shown(env[variable])}, {error}") from error
    return found


def parse_limits(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """`20MB/s` for all sources together, `hub=5MB/s` for those of one kind, each at most once. Raises ValueError."""
    limits: dict[str, int] = {}
    for text in texts:
        kind, equals, rate = text.rpartition("=")
        if equals and kind not in KINDS:
            raise ValueError(f"allowed limits of {', '.join(KINDS)}, or of all together")
        if kind in limits:
            raise ValueError(f"allowed one limit for {kind or 'all together'}")
        limits[kind] = parse_rate(rate)
    return tuple(sorted(limits.items()))


# What the environment may say besides: a setting, its variable, and how it is read; spaces set several apart.
_PARSED_VARIABLES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "limits": ("DISTRO_LIMIT", lambda text: parse_limits(text.split())),
    "schedule": ("DISTRO_WHEN", parse_schedule),
    "mirrors": ("DISTRO_MIRRORS", lambda text: parse_mirrors(text.split())),
}


# What config.toml may say: a judge of each value, and what is allowed, in words.
_KEYS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "home": (lambda value: isinstance(value, str) and value != "", "a path"),
    "hub_cache": (lambda value: isinstance(value, str) and value != "", "a path"),
    "state_folder": (lambda value: isinstance(value, str) and value != "", "a path"),
    "hub_endpoint": (
        lambda value: isinstance(value, str) and value.startswith(("https://", "http://")),
        "an address that begins with https:// or http://",
    ),
    "offline": (lambda value: isinstance(value, bool), "true or false"),
    "no_color": (lambda value: isinstance(value, bool), "true or false"),
    "timeout_s": (
        lambda value: _is_number(value) and 0 < float(str(value)) <= 86_400,
        "seconds, above 0, at most a day",
    ),
    "retries": (lambda value: isinstance(value, int) and _is_number(value) and 0 <= value <= 1000, "0 to 1000"),
    "files_at_once": (lambda value: isinstance(value, int) and _is_number(value) and 1 <= value <= 64, "1 to 64"),
}

# What it may say besides: a setting, and how its texts are read.
_PARSED_KEYS: Mapping[str, tuple[str, Callable[[list[str]], object]]] = {
    "limit": ("limits", parse_limits),
    "when": ("schedule", lambda texts: parse_schedule(",".join(texts))),
    "mirrors": ("mirrors", parse_mirrors),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _from_file(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise MalformedManifestError(path, "TOML", found="values nested too deep", allowed="plain values") from error
    except ValueError as error:  # no TOML, no UTF-8, or what int() says of a number of many digits
        raise MalformedManifestError(path, "TOML", found=str(error), allowed="a well-formed file") from error
    found: dict[str, object] = {}
    for key, value in values.items():
        if key in _PARSED_KEYS:
            name, parse = _PARSED_KEYS[key]
            try:
                found[name] = parse(_texts(value))
            except ValueError as error:
                raise MalformedManifestError(
                    path, key, found=value, allowed=str(error).removeprefix("allowed ")
                ) from error
            continue
        if key not in _KEYS:
            allowed = ", ".join([*_KEYS, *_PARSED_KEYS])
            raise MalformedManifestError(path, key, found="an unknown setting", allowed=allowed)
        is_right, allowed = _KEYS[key]
        if not is_right(value):
            raise MalformedManifestError(path, key, found=value, allowed=allowed)
        found[key] = Path(str(value)) if key in ("home", "hub_cache", "state_folder") else value
    return found


def _texts(value: object) -> list[str]:
    """A text, or several. Raises ValueError."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    if (isinstance(value, list) and len(texts) == len(value)) or texts == [value]:
        return texts
    raise ValueError("allowed a text, or several in a list")
