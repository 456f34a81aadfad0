"""Magnet links: a torrent by its infohash, and where to ask for it (BEPs 9, 53).

    xt=urn:btih:…  infohash v1, SHA-1 as 40 hex or 32 base32 digits   tr=…    tracker
    xt=urn:btmh:…  infohash v2, a multihash: 1220 and SHA-256 as hex  ws=…    web seed
    dn=…           what clients show; decides nothing                 x.pe=…  peer, host:port

A number may follow a key (`tr.1`). Here the links are read; `Torrent.magnet` writes them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from distro.errors import MalformedManifestError
from distro.swarm.addresses import fit_peers, fit_urls

if TYPE_CHECKING:
    from distro.swarm.torrent import Torrent

_MAX_CHARACTERS = 65_536


@dataclass(frozen=True)
class Magnet:
    """A magnet link that was judged (BEP 9). peers: host and port. dropped: what was left out, and why."""

    infohash_v1: str | None
    infohash_v2: str | None
    label: str | None = None
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[tuple[str, int], ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def infohash(self) -> str:
        """The strongest that there is."""
        return self.infohash_v2 or self.infohash_v1 or ""

    def names(self, torrent: Torrent) -> bool:
        """Whether this link means that torrent: every hash it gives is the torrent's."""
        return (self.infohash_v1 in (None, torrent.infohash_v1)) and (self.infohash_v2 in (None, torrent.infohash_v2))


def parse_magnet(text: str) -> Magnet:
    """A magnet link, judged: one torrent, whole hashes; addresses that are not fit are dropped.

    Raises MalformedManifestError.
    """
    values = _parameters(text)
    topics = values.get("xt", [])
    v1 = _one_hash("btih", topics, _v1_hash)
    v2 = _one_hash("btmh", topics, _v2_hash)
    if v1 is None and v2 is None:
        raise _malformed("xt", topics or "nothing", "urn:btih:… or urn:btmh:…")
    trackers, dropped = fit_urls("tracker", values.get("tr", []))
    web_seeds, dropped_seeds = fit_urls("web seed", values.get("ws", []))
    peers, dropped_peers = fit_peers(values.get("x.pe", []))
    if "so" in values:
        dropped += ("file selection (so) dropped: what is fetched is chosen here",)
    return Magnet(
        v1, v2,
        label=next(iter(values.get("dn", [])), None),
        trackers=trackers,
        web_seeds=web_seeds,
        peers=peers,
        dropped=dropped + dropped_seeds + dropped_peers,
    )  # fmt: skip


def _parameters(text: str) -> dict[str, list[str]]:
    """The values of each key, in the order of the link; the keys in lower case and without their number."""
    if len(text) > _MAX_CHARACTERS:
        raise _malformed("length", f"{len(text)} characters", f"{_MAX_CHARACTERS} at most")
    if not text.lower().startswith("magnet:?"):
        raise _malformed("link", text, "magnet:?xt=urn:btih:… or urn:btmh:…")
    values: dict[str, list[str]] = {}
    for key, value in parse_qsl(text[len("magnet:?") :], keep_blank_values=True, errors="replace"):
        name = key.lower()
        values.setdefault(name if name == "x.pe" else name.partition(".")[0], []).append(value)
    return values


def _one_hash(kind: str, topics: list[str], judge: Callable[[str], str]) -> str | None:
    prefix = f"urn:{kind}:"
    found = {judge(topic[len(prefix) :]) for topic in topics if topic.lower().startswith(prefix)}
    if len(found) > 1:
        raise _malformed(f"xt urn:{kind}", f"{len(found)} different hashes", "one torrent")
    return next(iter(found), None)


def _v1_hash(text: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{40}", text):
        return text.lower()
    if re.fullmatch(r"[A-Za-z2-7]{32}", text):
        return base64.b32decode(text.upper()).hex()
    raise _malformed("xt urn:btih", text, "40 hex or 32 base32 digits")


def _v2_hash(text: str) -> str:
    if re.fullmatch(r"1220[0-9a-fA-F]{64}", text):
        return text[4:].lower()
    raise _malformed("xt urn:btmh", text, "1220 and 64 hex digits, a SHA-256 multihash")


def _malformed(field: str, found: object, allowed: str) -> MalformedManifestError:
    return MalformedManifestError("magnet", field, found=found, allowed=allowed)
