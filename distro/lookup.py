"""From what a user typed to what it names: a variant that can be fetched, or a place on this disk.

`wanted` may ask the hub or a swarm; `local` and `stored` never leave this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro import catalog
from distro.catalog import Resolved
from distro.config import Settings
from distro.errors import MalformedManifestError, NotBuiltError, NotFoundError, SourceError, UsageError
from distro.manifest import Model, fold
from distro.progress import Progress, Silent
from distro.reference import (
    HubReference,
    MagnetReference,
    ManifestReference,
    NamedReference,
    PathReference,
    Reference,
    TorrentReference,
    parse_reference,
)
from distro.store import Store

if TYPE_CHECKING:
    from distro.receipt import Receipt


@dataclass(frozen=True)
class Local:
    """A model on this disk. path: to open. model, variant: its names in the store, None for a path of the user's own.

    published: the model as manifests describe it, None where none does.
    """

    path: Path
    model: str | None = None
    variant: str | None = None
    published: Model | None = None

    def declares(self, variant: str) -> bool:
        """Whether that is the name of something published, so that nothing made here may bear it."""
        return self.published is not None and self.published.variant(variant) is not None


@dataclass(frozen=True)
class Stored:
    """A variant in the store, with the receipt that says what it is."""

    folder: Path
    receipt: Receipt
    published: Model | None

    @property
    def name(self) -> str:
        return f"{self.receipt.model}:{self.receipt.variant}"

    @property
    def path(self) -> Path:
        """What to open: the only file, or the only GGUF among others, or the folder."""
        names = list(self.receipt.files)
        weights = [name for name in names if name.endswith(".gguf")]
        if len(names) == 1 or len(weights) == 1:
            return self.folder / (weights or names)[0]
        return self.folder


def wanted(
    settings: Settings,
    text: str,
    peers: Sequence[tuple[str, int]] = (),
    *,
    allow_sha1: bool = False,
    progress: Progress | None = None,
) -> Resolved:
    """The variant that a reference means: a name by its manifest; for the hub and for torrents made on the spot.

    peers: host and port of swarm members to ask for a magnet's metadata. allow_sha1: take a torrent that nothing but
    SHA-1 proves. progress: told what is doubtful about a torrent. Raises NotFoundError, UsageError, NotBuiltError,
    UnsafeRequestError for a torrent without SHA-256, and SourceError where the hub or the swarm does not answer.
    """
    progress = progress or Silent()
    reference = parse_reference(text)
    match reference:
        case HubReference(repo, revision):
            from distro.sources.hub import variant_from_hub

            return Resolved(None, *variant_from_hub(settings, repo, revision))
        case MagnetReference():
            return _from_torrent(settings, text, peers, allow_sha1, progress)
        case TorrentReference(location) if not location.startswith("https://"):
            return _from_torrent(settings, location, peers, allow_sha1, progress)
        case TorrentReference() | ManifestReference():
            raise NotBuiltError("fetching a manifest or a .torrent by its address; download it and give its path")
        case PathReference(path) if path.suffix != ".toml":
            raise UsageError(f"{shown(text)}: is a path, so there is nothing to fetch; `distro verify` proves files")
    return catalog.load(settings).resolve(reference)


def _from_torrent(
    settings: Settings, reference: str, peers: Sequence[tuple[str, int]], allow_sha1: bool, progress: Progress
) -> Resolved:
    """The variant that a torrent brings; if nobody can say what is in it, the one that is here from it already."""
    from distro.sources.swarm import find_torrent
    from distro.swarm.variant import variant_from_torrent

    try:
        torrent = find_torrent(settings, reference, peers=peers)
    except SourceError as error:
        try:
            here = stored(settings, parse_reference(reference))
        except NotFoundError:
            raise error from None
        return Resolved(None, *here.receipt.as_variant())
    resolved = Resolved(None, *variant_from_torrent(torrent, source=reference, allow_sha1=allow_sha1))
    for line in torrent.dropped:
        progress.say(line)
    if torrent.infohash_v2 is None:
        progress.say(f"{resolved}: only SHA-1 says that these are the bytes its maker meant, and it can be forged")
    return resolved


def local(settings: Settings, text: str) -> Local:
    """A path that exists, or a variant that is in the store. Raises NotFoundError that says how to fetch it."""
    reference = parse_reference(text)
    if isinstance(reference, PathReference) and reference.path.suffix != ".toml":
        return Local(_existing(reference.path))
    try:
        found = stored(settings, reference)
    except NotFoundError:
        if isinstance(reference, NamedReference) and Path(text).exists():
            return Local(Path(text))
        raise
    return Local(found.path, found.receipt.model, found.receipt.variant, found.published)


def local_path(settings: Settings, text: str) -> Path:
    """The path alone of what `local` finds."""
    return local(settings, text).path


def stored(settings: Settings, reference: Reference) -> Stored:
    """The variant in the store that a reference means. Raises NotFoundError, UsageError."""
    store = Store(settings.home)
    model, variant, published = _names(settings, store, reference)
    here = [name for each, name in store.variants() if each == model]
    if variant is None and len(here) == 1:
        variant = here[0]
    wanted = next((name for name in here if variant is not None and _means(variant, name, reference)), None)
    receipt = None if wanted is None else store.receipt(model, wanted)
    if wanted is None or receipt is None:
        raise _not_here(reference, model, here)
    return Stored(store.folder(model, wanted), receipt, published)


def _names(settings: Settings, store: Store, reference: Reference) -> tuple[str, str | None, Model | None]:
    """(model, variant, the model as published); the variant is None where only the store can tell."""
    match reference:
        case NamedReference(name, variant):
            try:
                _, published = catalog.load(settings).find(name)
            except NotFoundError:
                made_here = next((each for each, _ in store.variants() if fold(each) == fold(name)), None)
                if made_here is None:
                    raise
                return made_here, variant, None
            return published.name, variant or published.default, published
        case HubReference(repo, revision):
            return repo, revision, None
        case MagnetReference(_, infohash):
            return _torrent_here(store, infohash), None, None
        case TorrentReference(location) if not location.startswith("https://"):
            from distro.swarm.torrent import read

            return f"torrent-{read(_existing(Path(location))).infohash[:16]}", None, None
        case PathReference():
            resolved = catalog.load(settings).resolve(reference)
            return resolved.model.name, resolved.variant.name, resolved.model
    raise UsageError(f"{shown(str(reference))}: only `distro fetch` can open this; then use the name that it gives")


def _torrent_here(store: Store, infohash: str) -> str:
    """A torrent's name in the store. A hybrid is named after its v2 infohash; a v1 link finds it by its receipt."""
    name = f"torrent-{infohash[:16]}"
    here = [(model, variant) for model, variant in store.variants() if model.startswith("torrent-")]
    if name in dict(here):
        return name
    for model, variant in here:
        receipt = store.receipt(model, variant)
        if receipt is None:
            continue
        swarms = [entry.source for entry in receipt.files.values()]
        if f"swarm {infohash[:16]}" in swarms or any(_links_to(source, infohash) for source in receipt.sources):
            return model
    return name


def _links_to(source: str, infohash: str) -> bool:
    """Whether a source is a link to that torrent."""
    from distro.swarm.magnet import parse_magnet

    try:
        magnet = parse_magnet(source)
    except MalformedManifestError:  # another kind of source
        return False
    return infohash in (magnet.infohash_v1, magnet.infohash_v2)


def _means(variant: str, name: str, reference: Reference) -> bool:
    if isinstance(reference, HubReference):  # its variants are named after the first digits of a commit
        return variant.startswith(name) or (len(variant) >= 7 and name.startswith(variant))
    return fold(variant) == fold(name)


def _not_here(reference: Reference, model: str, here: Sequence[str]) -> NotFoundError:
    others = f"; of this model there are {', '.join(here)}" if here else ""
    return NotFoundError(f"{shown(str(reference))}: not here, `distro fetch {shown(str(reference))}` brings it{others}")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFoundError(f"{shown(str(path))}: no such file or folder")
    return path
