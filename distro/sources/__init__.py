"""The ways in, one file each, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distro.config import Settings
from distro.errors import MalformedManifestError
from distro.manifest import Variant
from distro.reference import HubReference, IndexReference, parse_source
from distro.sources.base import Source

if TYPE_CHECKING:
    from distro.sources.http import HttpSource
    from distro.sources.hub import HubSource


def open_source(
    settings: Settings, reference: str, variant: Variant, *, peers: Sequence[tuple[str, int]] = ()
) -> Source:
    """The source that a reference names, ready for the files of a variant.

    peers: host and port of peers that a swarm is to ask besides those it finds. Raises SourceError for a source that
    cannot be used now, MalformedManifestError for a reference of no kind we know.
    """
    if reference.startswith(("hf:", "index:")):
        return _open_named(settings, reference)
    if reference.startswith("magnet:") or reference.endswith(".torrent"):
        from distro.sources.swarm import open_swarm

        return open_swarm(settings, reference, variant, peers=peers)
    if reference.startswith(("https://", "http://")):
        from distro.sources.http import HttpSource
        from distro.sources.retry import Retrying

        return Retrying(settings, HttpSource(settings, reference, variant))
    raise _unknown(reference, "another kind")


def open_ranged(settings: Settings, reference: str, variant: Variant) -> HubSource | HttpSource | None:
    """The source that a reference names, if it can be read in parts; None for one of another kind.

    Raises as `open_source`.
    """
    if reference.startswith("hf:"):
        from distro.sources.hub import HubSource

        parsed = parse_source(reference)
        return HubSource(settings, parsed) if isinstance(parsed, HubReference) else None
    if reference.startswith(("https://", "http://")) and not reference.endswith(".torrent"):
        from distro.sources.http import HttpSource

        return HttpSource(settings, reference, variant)
    return None


def kind_of(reference: str) -> str:
    """Which of `distro.config.KINDS` a source is of, for its limit."""
    if reference.startswith(("hf:", "index:")):
        return "hub" if reference.startswith("hf:") else "index"
    return "swarm" if reference.startswith("magnet:") or reference.endswith(".torrent") else "mirror"


def _open_named(settings: Settings, reference: str) -> Source:
    from distro.sources.retry import Retrying

    try:
        parsed = parse_source(reference)
    except ValueError as error:
        raise _unknown(reference, str(error)) from error
    if isinstance(parsed, HubReference):
        from distro.sources.hub import HubSource

        return Retrying(settings, HubSource(settings, parsed))
    if isinstance(parsed, IndexReference):
        from distro.sources.index import IndexSource

        return IndexSource(settings, parsed)
    raise TypeError(f"{reference} was parsed as {type(parsed).__name__}")


def _unknown(reference: str, found: str) -> MalformedManifestError:
    allowed = "hf:…, https:…, index:…, magnet:…, a .torrent file"
    return MalformedManifestError(reference, "source", found=found, allowed=allowed)
