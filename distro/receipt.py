"""What a variant on the disk is and where it came from: `receipt.json`, written when a run ends, well or not.

    {"schema": 1, "model": "…", "variant": "…", "format": "…",
     "files": {"path": {"sha256": "…", "size": 1, "source": "…", "time": "2026-01-31T12:00:00Z", "proven": true,
                        "pieces": "…"}},
     "missing": ["path"], "sources": ["…"],
     "recipe": {…}, "inputs": {"path": "sha256"}}

`pieces` is there for a file with a list of piece hashes (distro/proof/piece_hashes.py), `missing` where a fetch ended
before it had all that was wanted, `sources` where references are known that it can be fetched from again, `recipe` and
`inputs` if it was made here. The same receipt is always the same bytes: keys in order, two spaces, a new line at the
end. The reader believes nothing: sizes and digests are judged, unknown keys refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distro.digest import open_regular
from distro.errors import MalformedManifestError
from distro.manifest import File, Model, Variant
from distro.paths import safe_relpath

_LONGEST_BYTES = 64 * 1024 * 1024  # a receipt of 100,000 files is a quarter of this
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SECRET = re.compile(r"https?://[^/]*@|https?://.*\?", re.ASCII)  # an address with a password or a key: not for a file
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One file. sha256: of the bytes on the disk. proven: False where no digest was published to prove it by.

    pieces: digest of its list of piece hashes.
    """

    sha256: str
    size: int
    source: str
    time: str
    proven: bool = True
    pieces: str | None = None


@dataclass(frozen=True)
class Receipt:
    """files: by path. recipe: canonical JSON of how it was made here; inputs: sha256 of what it was made from.

    sources: references that it can be fetched from again, as manifests have them. missing: paths of files that were
    wanted and have not come.
    """

    model: str
    variant: str
    format: str
    files: Mapping[str, Entry]
    recipe: Mapping[str, Any] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        value: dict[str, Any] = {
            "schema": 1,
            "model": self.model,
            "variant": self.variant,
            "format": self.format,
            "files": {path: _without_none(vars(self.files[path])) for path in sorted(self.files)},
        }
        if self.missing:
            value["missing"] = sorted(self.missing)
        if sources := [source for source in self.sources if not _SECRET.match(source)]:
            value["sources"] = sources
        if self.recipe is not None:
            value |= {"recipe": dict(self.recipe), "inputs": dict(sorted(self.inputs.items()))}
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace")  # names of inputs that are no text, as JSON spells them

    def as_variant(self) -> tuple[Model, Variant]:
        """What is here as a model of one variant, where no manifest and no source says more."""
        files = tuple(File(path, entry.size, sha256=entry.sha256) for path, entry in self.files.items())
        variant = Variant(self.variant, self.format, files, self.sources)
        return Model(self.model, 0, "", self.variant, (variant,)), variant

    @staticmethod
    def read(path: Path) -> Receipt | None:
        """The receipt in a file; None if there is no such file. Raises MalformedManifestError."""
        try:
            with open_regular(path) as stream:
                data = stream.read(_LONGEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > _LONGEST_BYTES:
            raise _wrong(path, "size", f"more than {_LONGEST_BYTES} bytes", "a receipt")
        try:
            value = json.loads(data, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, "JSON", str(error), "well-formed JSON") from error
        return _judged(path, value)


def now() -> str:
    """The time, RFC 3339, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _judged(path: Path, value: object) -> Receipt:
    needed, optional = {"schema", "model", "variant", "format", "files"}, {"missing", "sources", "recipe", "inputs"}
    top = _object(path, "receipt", value, needed, optional)
    if top["schema"] != 1 or isinstance(top["schema"], bool):
        raise _wrong(path, "schema", top["schema"], "1 (made by another version of distro?)")
    files = top["files"]
    if not isinstance(files, dict):
        raise _wrong(path, "files", files, "an object")
    inputs = top.get("inputs", {})
    if not isinstance(inputs, dict) or not all(_SHA256.fullmatch(str(digest)) for digest in inputs.values()):
        raise _wrong(path, "inputs", inputs, "an object of SHA-256 digests")
    sources, missing = _texts(path, top, "sources"), _texts(path, top, "missing")
    recipe = top.get("recipe")
    if recipe is not None and not isinstance(recipe, dict):
        raise _wrong(path, "recipe", recipe, "an object")
    return Receipt(
        model=_text(path, "model", top["model"]),
        variant=_text(path, "variant", top["variant"]),
        format=_text(path, "format", top["format"]),
        files={_judged_name(path, name): _entry(path, f"files/{name}", entry) for name, entry in files.items()},
        recipe=recipe,
        inputs=inputs,
        sources=sources,
        missing=missing,
    )


def _judged_name(path: Path, name: str) -> str:
    try:
        return safe_relpath(name)
    except ValueError as error:
        raise _wrong(path, f"files/{name}", str(error), "a path below the variant's folder") from error


def _entry(path: Path, where: str, value: object) -> Entry:
    entry = _object(path, where, value, {"sha256", "size", "source", "time", "proven"}, {"pieces"})
    if not _SHA256.fullmatch(_text(path, f"{where}/sha256", entry["sha256"])):
        raise _wrong(path, f"{where}/sha256", entry["sha256"], "64 lower-case hexadecimal digits")
    if not isinstance(entry["size"], int) or isinstance(entry["size"], bool) or not 0 <= entry["size"] < 2**63:
        raise _wrong(path, f"{where}/size", entry["size"], "a number of bytes")
    if not _TIME.fullmatch(_text(path, f"{where}/time", entry["time"])):
        raise _wrong(path, f"{where}/time", entry["time"], "a time such as 2026-01-31T12:00:00Z")
    if not isinstance(entry["proven"], bool):
        raise _wrong(path, f"{where}/proven", entry["proven"], "true or false")
    pieces = entry.get("pieces")
    if "pieces" in entry and not _SHA256.fullmatch(_text(path, f"{where}/pieces", pieces)):
        raise _wrong(path, f"{where}/pieces", pieces, "64 lower-case hexadecimal digits")
    source = _text(path, f"{where}/source", entry["source"])
    return Entry(entry["sha256"], entry["size"], source, entry["time"], entry["proven"], pieces)


def _object(path: Path, where: str, value: object, needed: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, where, value, "an object")
    if missing := needed - value.keys():
        raise _wrong(path, where, f"no {', '.join(sorted(missing))}", ", ".join(sorted(needed)))
    if unknown := value.keys() - needed - optional:
        raise _wrong(path, where, f"unknown {', '.join(sorted(unknown))}", ", ".join(sorted(needed | optional)))
    return value


def _text(path: Path, where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(path, where, value, "a text")
    return value


def _texts(path: Path, top: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = top.get(where, [])
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise _wrong(path, where, value, "a list of texts")
    return tuple(value)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key appears twice")
    return value


def _wrong(path: Path, where: str, found: object, allowed: str) -> MalformedManifestError:
    return MalformedManifestError(path, where, found=found, allowed=allowed)
