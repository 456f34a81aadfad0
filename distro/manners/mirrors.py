"""Mirrors: other places that have a model's files, named by the user, and which of them answered lately.

    hub=https://host                  has what the hub has, as the hub has it: …/<owner>/<name>/resolve/<commit>/<path>
    https://host/folder/              the files of the model that is fetched
    https://host/{model}/{variant}/   the same for every model, as a copy of our store has it: `owner--name` for a hub's
    https://host/file                 the only file of a model that has but one

A mirror that failed comes after those that did not, until it works again. No token is ever sent to one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import UsageError
from distro.manifest import Model, Variant
from distro.manners import remembered
from distro.reference import HubReference, parse_source

if TYPE_CHECKING:
    from distro.config import Settings

_HUB = "hub="
_ADDRESS = re.compile(r"https?://[^/\s?#{}]+(/([^\s?#{}]|\{model\}|\{variant\})*)?")
_FORGOTTEN_S = 7 * 24 * 3600  # a failure so long ago says nothing
_STATE = "mirrors.json"  # {"failed": {address: seconds since the epoch}}


@dataclass(frozen=True)
class Mirror:
    """address: as the user wrote it, by which its health is known. source: what `open_source` takes."""

    address: str
    source: str


def parse_mirrors(texts: Sequence[str]) -> tuple[str, ...]:
    """Mirrors as they were written, judged, each once. Raises ValueError."""
    for text in texts:
        address = text.removeprefix(_HUB)
        if not _ADDRESS.fullmatch(address) or (text.startswith(_HUB) and "{" in text):
            raise ValueError(
                f"allowed {_HUB}https://HOST, https://HOST/FOLDER/ or https://HOST/{{model}}/{{variant}}/ "
                f"instead of {shown(text)}"
            )
    return tuple(dict.fromkeys(texts))


def mirrors_of(settings: Settings, model: Model, variant: Variant) -> tuple[Mirror, ...]:
    """Where the mirrors have a variant, those that answered lately first. No network.

    Raises UsageError for the address of one file where the variant has more.
    """
    found = {mirror.source: mirror for text in settings.mirrors for mirror in _sources(text, model, variant)}
    failures = _failures(settings.state_folder)
    return tuple(sorted(found.values(), key=lambda mirror: failures.get(mirror.address, 0.0)))


def remember(settings: Settings, mirror: Mirror, *, worked: bool) -> None:
    """Keep for the next run whether it gave what it was asked for. What cannot be kept is forgotten without a word."""
    failures = _failures(settings.state_folder)
    if worked and mirror.address not in failures:
        return
    failures.pop(mirror.address, None)
    if not worked:
        failures[mirror.address] = time.time()
    remembered.remember(settings.state_folder, _STATE, {"failed": failures})


def _sources(text: str, model: Model, variant: Variant) -> list[Mirror]:
    if not text.startswith(_HUB):
        names = {"model": model.name.replace("/", "--"), "variant": variant.name}
        address = re.sub(r"\{(.*?)\}", lambda match: names[match[1]], text)
        if not address.endswith("/") and len(variant.files) != 1:
            raise UsageError(f"{shown(address)}: one address for {len(variant.files)} files; a folder ends in /")
        return [Mirror(text, address)]
    endpoint, mirrors = text.removeprefix(_HUB).rstrip("/"), []
    for source in variant.sources:
        reference = parse_source(source) if source.startswith("hf:") else None
        if isinstance(reference, HubReference) and reference.is_pinned:
            mirrors.append(Mirror(text, f"{endpoint}/{reference.repo}/resolve/{reference.revision}/"))
    return mirrors


def _failures(folder: Path | None) -> dict[str, float]:
    """When which mirror failed, in seconds since the epoch."""
    failures = remembered.recall(folder, _STATE).get("failed")
    if not isinstance(failures, Mapping):
        return {}
    now = time.time()
    return {
        address: float(at)
        for address, at in failures.items()
        if isinstance(at, (int, float)) and not isinstance(at, bool) and now - _FORGOTTEN_S < at <= now + _FORGOTTEN_S
    }
