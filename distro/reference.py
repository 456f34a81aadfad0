"""References: what a user types to name a model, and what a manifest lists as a source. Parsed here, opened elsewhere.

llama-13b, llama-13b:q4_k_m          a model, a variant of it                        user
hf:owner/repo, hf:owner/repo@rev     a repository of the hub (also hf://…)           user, manifest
magnet:?xt=urn:btih:…                a torrent by its infohash                       user, manifest
https://….torrent, x.torrent         a torrent's metadata, there or here             user, manifest (the first)
https://…                            a manifest                                      user
https://host/folder/                 a folder that has the files of a variant        manifest
index:package==version/folder        a folder in a wheel of the Python package index  manifest
./folder, model.gguf                 a path                                          user
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from distro.errors import MalformedManifestError
from distro.paths import safe_relpath
from distro.urls import judge_url

LONGEST_REFERENCE = 8192  # characters; a magnet with many trackers is long

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)  # of families, models, variants: also folder names
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+]*", re.ASCII)
_FILE_SUFFIXES = (".gguf", ".ggml", ".bin", ".pth", ".pt", ".safetensors", ".toml", ".json", ".tar")


@dataclass(frozen=True)
class NamedReference:
    """A model of the catalogue. variant: None for its default."""

    name: str
    variant: str | None = None

    def __str__(self) -> str:
        return self.name if self.variant is None else f"{self.name}:{self.variant}"


@dataclass(frozen=True)
class HubReference:
    """A repository. revision: a commit, branch or tag; None for the default branch."""

    repo: str
    revision: str | None = None

    @property
    def is_pinned(self) -> bool:
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"hf:{self.repo}" if self.revision is None else f"hf:{self.repo}@{self.revision}"


@dataclass(frozen=True)
class MagnetReference:
    """infohash: hex, of v2 (64 digits) where the link has it, else of v1 (40 digits)."""

    uri: str
    infohash: str

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True)
class TorrentReference:
    """location: an https address, or a path."""

    location: str

    def __str__(self) -> str:
        return self.location


@dataclass(frozen=True)
class ManifestReference:
    """The address of a manifest."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class FolderReference:
    """The address of a folder, with a slash at its end; a file's path is joined to it."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class IndexReference:
    """A folder in a wheel; a file's path is joined to it. folder: empty for the top of the wheel."""

    package: str
    version: str
    folder: str

    def __str__(self) -> str:
        return f"index:{self.package}=={self.version}/{self.folder}".rstrip("/")


@dataclass(frozen=True)
class PathReference:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


Reference = NamedReference | HubReference | MagnetReference | TorrentReference | ManifestReference | PathReference
SourceReference = HubReference | MagnetReference | TorrentReference | FolderReference | IndexReference


def parse_reference(text: str) -> Reference:
    """What a user means. Raises MalformedManifestError; asks neither the disk nor the network."""
    try:
        return _parse_reference(text)
    except ValueError as error:
        raise MalformedManifestError(
            text, "reference", found=str(error),
            allowed="name, name:variant, hf:owner/repo[@revision], magnet:?xt=…, an https address, a path",
        ) from error  # fmt: skip


def parse_source(text: str) -> SourceReference:
    """A source as a manifest lists it. Raises ValueError with the reason, MalformedManifestError for a bad magnet."""
    if len(text) > LONGEST_REFERENCE:
        raise ValueError(f"a source of {len(text)} characters, {LONGEST_REFERENCE} at most")
    if text.startswith("hf:"):
        hub = _parse_hub(text)
        if hub.revision is not None and not hub.is_pinned:
            raise ValueError("a revision that is not a commit of 40 lower-case digits")
        return hub
    if text.startswith("magnet:"):
        return _parse_magnet(text, public_only=True)
    if text.startswith("index:"):
        return _parse_index(text)
    judge_url(text)
    if text.endswith(".torrent"):
        return TorrentReference(text)
    if "?" in text or not text.endswith("/"):
        raise ValueError("an address that ends neither in / (a folder) nor in .torrent")
    return FolderReference(text)


def _parse_reference(text: str) -> Reference:
    if not text or len(text) > LONGEST_REFERENCE:
        raise ValueError(f"{len(text)} characters")
    if not text.isprintable():
        raise ValueError("a character that does not print")
    if text.startswith("hf:"):
        return _parse_hub(text)
    if text.startswith("magnet:"):
        return _parse_magnet(text, public_only=False)
    if text.startswith("https://"):
        return TorrentReference(text) if text.endswith(".torrent") else ManifestReference(text)
    if re.match(r"[a-z]{2,}://", text):
        raise ValueError("an address that does not begin with https://")
    if text.endswith(".torrent"):
        return TorrentReference(text)
    name, colon, variant = text.partition(":")
    looks_like_path = text.startswith((".", "~")) or "/" in text or "\\" in text or text.endswith(_FILE_SUFFIXES)
    if looks_like_path or not NAME.fullmatch(name):
        return PathReference(Path(os.path.expanduser(text)))  # noqa: PTH111  Path.expanduser() minds users that are not
    if colon and not NAME.fullmatch(variant):
        raise ValueError(f"{variant!r} as a variant")
    return NamedReference(name, variant if colon else None)


def _parse_hub(text: str) -> HubReference:
    repo, at, revision = text.removeprefix("hf:").removeprefix("//").partition("@")
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise ValueError("a repository that is not owner/name")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 255):
        raise ValueError("a revision that is no commit, branch or tag")
    return HubReference(repo, revision if at else None)


def _parse_magnet(text: str, *, public_only: bool) -> MagnetReference:
    """public_only: refuse what a manifest may not name, instead of leaving it out when the torrent is fetched."""
    from distro.swarm.magnet import parse_magnet

    magnet = parse_magnet(text)
    if public_only:
        if magnet.dropped:
            raise ValueError(magnet.dropped[0])
        if magnet.peers:
            raise ValueError("a peer by its address in a magnet")
        for tracker in magnet.trackers:
            judge_url(tracker, ("https", "http", "udp"))
        for web_seed in magnet.web_seeds:
            judge_url(web_seed)
    return MagnetReference(text, magnet.infohash)


def _parse_index(text: str) -> IndexReference:
    requirement, slash, folder = text.removeprefix("index:").partition("/")
    package, equals, version = requirement.partition("==")
    if not equals or not _PACKAGE.fullmatch(package) or not _VERSION.fullmatch(version) or len(requirement) > 200:
        raise ValueError("a requirement that is not package==version")
    return IndexReference(package, version, safe_relpath(folder) if slash else "")
