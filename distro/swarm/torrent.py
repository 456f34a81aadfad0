"""A torrent: what its info dictionary says, judged, and the `.torrent` file around it.

    info           the bencoded dictionary that the infohashes are hashes of: files, piece length, pieces
    announce-list  trackers (BEP 12)
    piece layers   pieces root to the SHA-256 digests of that file's pieces, where it has several (BEP 52)
    url-list       web seeds (BEP 19)

What comes from others is judged: bencoding and the rules of the dictionaries by libtorrent under our limits, names of
files in torrent_file.py, addresses in addresses.py, the lengths of pieces and piece layers here. Beyond those named
above, BEPs 3, 27 and 47.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from converters.errors import shown
from distro.digest import open_regular
from distro.errors import MalformedManifestError, NotFoundError, UsageError
from distro.swarm.addresses import fit_urls
from distro.swarm.binding import reason, require_libtorrent
from distro.swarm.torrent_file import TorrentFile, list_files

if TYPE_CHECKING:
    import libtorrent as lt

_SMALLEST_PIECE, _LARGEST_PIECE = 16 * 1024, 128 * 1024 * 1024  # bytes, in torrents of others
_MAX_TORRENT_BYTES = 10_000_000
_LIMITS = {"max_decode_tokens": 3_000_000, "max_decode_depth": 100, "max_pieces": 2_097_152}


@dataclass(frozen=True)
class Torrent:
    """A torrent that was judged.

    info: the bencoded dictionary, byte for byte as it is hashed. infohash_v1: SHA-1 of it, infohash_v2: SHA-256, in
    lower-case hex, None where the torrent is not of that version. piece_length: bytes. piece_layers: pieces root to
    the digests of that file's pieces, one after another; empty where peers are still to be asked for them.
    dropped: what was left out on reading, and why.
    """

    info: bytes = field(repr=False)
    name: str
    piece_length: int
    files: tuple[TorrentFile, ...]
    n_entries: int  # files and pad files
    extent: int  # bytes of all files and pad files
    infohash_v1: str | None
    infohash_v2: str | None
    private: bool = False
    piece_layers: Mapping[bytes, bytes] = field(default_factory=dict, repr=False, compare=False)
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files, without padding."""
        return sum(file.size for file in self.files)

    @property
    def infohash(self) -> str:
        """The strongest that there is."""
        return self.infohash_v2 or self.infohash_v1 or ""

    def magnet(self, label: str | None = None) -> str:
        """The link that finds this torrent; label is only what other clients show."""
        parts = [f"xt=urn:btih:{self.infohash_v1}"] if self.infohash_v1 else []
        parts += [f"xt=urn:btmh:1220{self.infohash_v2}"] if self.infohash_v2 else []
        parts += [f"dn={quote(label or self.name, safe='')}", *(f"tr={quote(url, safe='')}" for url in self.trackers)]
        return "magnet:?" + "&".join(parts)

    def encode(self) -> bytes:
        """The bytes of the `.torrent` file; `info` goes in untouched."""
        import libtorrent as lt

        parts: dict[bytes, bytes] = {b"info": self.info}
        if self.trackers:
            parts[b"announce"] = lt.bencode(self.trackers[0].encode())
            parts[b"announce-list"] = lt.bencode([[url.encode()] for url in self.trackers])
        if self.piece_layers:
            layers: Any = dict(self.piece_layers)
            parts[b"piece layers"] = lt.bencode(layers)
        if self.web_seeds:
            parts[b"url-list"] = lt.bencode([url.encode() for url in self.web_seeds])
        return b"d" + b"".join(lt.bencode(key) + parts[key] for key in sorted(parts)) + b"e"

    def as_private(self) -> Torrent:
        """The same files for named peers and trackers alone (BEP 27), named by content as well."""
        import libtorrent as lt

        info: Any = lt.bdecode(self.info)
        info[b"private"] = 1
        private = named_by_content(info, self.name, self.piece_layers)
        return replace(private, trackers=self.trackers, web_seeds=self.web_seeds)

    def v1_companion(self) -> Torrent:
        """The same pieces for clients that know only v1. Raises UsageError for a torrent without a v1 part."""
        import libtorrent as lt

        if self.infohash_v1 is None:
            raise UsageError(f"{shown(self.name)}: a v2-only torrent has no v1 companion")
        info: Any = lt.bdecode(self.info)
        info.pop(b"file tree", None)
        info.pop(b"meta version", None)
        return replace(from_info(lt.bencode(info), self.name), trackers=self.trackers, web_seeds=self.web_seeds)


def read(source: Path | bytes) -> Torrent:
    """A `.torrent` file, judged: caps, libtorrent's rules, names, piece layers, addresses.

    Raises NotFoundError, MalformedManifestError.
    """
    require_libtorrent()
    import libtorrent as lt

    where = "torrent" if isinstance(source, bytes) else source
    data = source if isinstance(source, bytes) else _bounded(source)
    if len(data) > _MAX_TORRENT_BYTES:
        raise MalformedManifestError(where, "size", found=f"{len(data)} bytes", allowed=f"{_MAX_TORRENT_BYTES} at most")
    params, parsed = _load(data, where)
    outer: Any = lt.bdecode(data)
    trackers, dropped = fit_urls("tracker", params.trackers)
    web_seeds, dropped_too = fit_urls("web seed", params.url_seeds)
    torrent = from_info(parsed.info_section(), where, piece_layers=outer.get(b"piece layers") or {})
    _check_layers(torrent, where)
    return replace(torrent, trackers=trackers, web_seeds=web_seeds, dropped=dropped + dropped_too)


def from_info(info: bytes, where: Path | str, *, piece_layers: Mapping[bytes, bytes] | None = None) -> Torrent:
    """A torrent from its bencoded info dictionary, which may have come from peers; where: for messages.

    Raises MalformedManifestError.
    """
    import libtorrent as lt

    _, parsed = _load(b"d4:info" + info + b"e", where)
    if not _SMALLEST_PIECE <= parsed.piece_length() <= _LARGEST_PIECE:
        allowed = f"{_SMALLEST_PIECE} to {_LARGEST_PIECE} bytes"
        raise MalformedManifestError(where, "piece length", found=parsed.piece_length(), allowed=allowed)
    hashes = parsed.info_hashes()
    return Torrent(
        info=info,
        name=parsed.name(),
        piece_length=parsed.piece_length(),
        files=tuple(list_files(parsed.layout(), lt.bdecode(info), where)),
        n_entries=parsed.num_files(),
        extent=parsed.layout().total_size(),
        infohash_v1=str(hashes.v1) if hashes.has_v1() else None,
        infohash_v2=str(hashes.v2) if hashes.has_v2() else None,
        private=parsed.priv(),
        piece_layers=piece_layers or {},
    )


def named_by_content(info: Any, where: Path | str, piece_layers: Mapping[bytes, bytes]) -> Torrent:
    """A torrent whose name is the first 16 hex digits of SHA-256 over the rest of its info dictionary.

    info: decoded; any name in it is replaced. where: for messages.
    """
    import libtorrent as lt

    del info[b"name"]
    info[b"name"] = hashlib.sha256(lt.bencode(info)).hexdigest()[:16].encode()
    return from_info(lt.bencode(info), where, piece_layers=piece_layers)


def _bounded(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_MAX_TORRENT_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(str(path))}: no such file") from error


def _load(data: bytes, where: Path | str) -> tuple[lt.add_torrent_params, lt.torrent_info]:
    """A `.torrent` file as libtorrent understands it: all of it, and its info dictionary."""
    import libtorrent as lt

    limits: Any = _LIMITS  # which the stub takes for something else
    try:
        params = lt.load_torrent_buffer(data, limits)
    except RuntimeError as error:
        allowed = "what BEPs 3, 47 and 52 define"
        raise MalformedManifestError(where, "torrent", found=reason(error), allowed=allowed) from error
    if params.ti is None:  # the binding's type says that it may be missing
        raise MalformedManifestError(where, "info", found="none", allowed="a dictionary")
    return params, params.ti


def _check_layers(torrent: Torrent, where: Path | str) -> None:
    """A v2 file of several pieces must come with their digests, or no piece of it could be proven."""
    for file in torrent.files:
        if file.pieces_root is None or file.size <= torrent.piece_length:
            continue
        layer = torrent.piece_layers.get(bytes.fromhex(file.pieces_root), b"")
        expected = -(-file.size // torrent.piece_length) * 32
        if len(layer) != expected:
            name = f"piece layers of {file.path}"
            raise MalformedManifestError(where, name, found=f"{len(layer)} bytes", allowed=f"{expected}")
