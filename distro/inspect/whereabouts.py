"""From a reference to what is inside it, wherever that is.

a path, a name that is here    opened where it lies
a name that is not here        its first source that is the hub or a web server, in parts
hf:owner/repo[@rev][:path]     the store's copy, else the hub; path: a file or a folder of the repository
https://host/model.gguf        one file of a web server, in parts
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from distro import catalog
from distro.config import Settings
from distro.errors import MalformedManifestError, NotFoundError
from distro.inspect.inspection import Inspection, inspect
from distro.lookup import local, stored
from distro.manifest import File, Model, Variant
from distro.paths import safe_relpath
from distro.receipt import Receipt
from distro.reference import HubReference, NamedReference, parse_reference
from distro.store import Store

_ADDRESS = re.compile(r"https?://.+(?<!/)(?<!\.torrent)(?<!\.toml)", re.ASCII)


def inspect_reference(settings: Settings, text: str) -> Inspection:
    """What is inside a model; of one that is elsewhere, headers and small files alone are read.

    Raises what `inspect` and `remote_folder` raise, NotFoundError for what is nowhere.
    """
    if _ADDRESS.fullmatch(text):
        model, variant = _of_address(text)
        return _elsewhere(settings, f"{model.name}/{variant.files[0].path}", model, variant)
    if text.startswith("hf:"):
        return _of_hub(settings, text)
    try:
        found = local(settings, text)
    except NotFoundError:
        parsed = parse_reference(text)
        if not isinstance(parsed, NamedReference):
            raise
        resolved = catalog.load(settings).resolve(parsed)
        return _elsewhere(settings, str(resolved), resolved.model, resolved.variant)
    if found.model is not None and found.variant is not None:
        receipt = Store(settings.home).receipt(found.model, found.variant)
        return inspect(found.path, name=text, receipt=receipt)
    return inspect(found.path, name=text, receipt=_receipt_beside(found.path))


def _receipt_beside(path: Path) -> Receipt | None:
    """The receipt that a file or folder of the user's own has with it, as `distro verify` finds it."""
    receipt = Receipt.read((path if path.is_dir() else path.parent) / "receipt.json")
    return receipt if receipt is not None and (path.is_dir() or path.name in receipt.files) else None


def _of_hub(settings: Settings, text: str) -> Inspection:
    """`hf:owner/repo@rev:path`."""
    from distro.sources.hub import variant_from_hub

    name, _, inside = text.removeprefix("hf:").partition(":")
    inside = _judged(text, inside.rstrip("/")) if inside else ""
    reference = parse_reference(f"hf:{name}")
    if not isinstance(reference, HubReference):
        raise TypeError(f"{text} was parsed as {type(reference).__name__}")
    try:
        found = stored(settings, reference)
    except NotFoundError:
        found = None
    if found is not None and (not inside or (found.folder / inside).exists()):
        return inspect(found.folder / inside if inside else found.path, name=text, receipt=found.receipt)
    model, variant = variant_from_hub(settings, reference.repo, reference.revision)
    return _elsewhere(settings, text, model, variant, inside)


def _of_address(text: str) -> tuple[Model, Variant]:
    """The one file at an address as a model, called by where it is, without what may be secret in an address."""
    parts = urlsplit(text)
    folder, _, name = parts.path.rpartition("/")
    variant = Variant("remote", "other", (File(_judged(text, unquote(name))),), (text,))
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{folder}"
    return Model(place, 0, "", variant.name, (variant,)), variant


def _judged(text: str, path: str) -> str:
    try:
        return safe_relpath(path)
    except ValueError as error:
        raise MalformedManifestError(text, "path", found=str(error), allowed="the path of a file") from error


def _elsewhere(settings: Settings, name: str, model: Model, variant: Variant, inside: str = "") -> Inspection:
    from distro.inspect.remote import remote_folder

    with remote_folder(settings, model, variant, inside) as folder:
        found = inspect(
            folder.path, name=name, opener=folder.opener, source=folder.source, n_read=lambda: folder.n_read
        )
        return replace(found, note=folder.named(found.note), warnings=tuple(map(folder.named, found.warnings)))
