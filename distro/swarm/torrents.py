"""Torrents: made from files, read from `.torrent` files, named by magnet links. No network here.

A torrent that we make depends on the content alone, so that whoever holds the same files joins the same swarm. It is a
hybrid (BEP 52), and its `info` dictionary has exactly these keys:

    file tree     each file's size and pieces root: SHA-256 over blocks of 16 KiB, a Merkle tree
    files         the same files for v1, in the same order, with pad files between them (BEP 47), none at the end
    meta version  2
    name          the first 16 hex digits of SHA-256 over the bencoded dictionary without this key
    piece length  the smallest power of two that gives at most 1024 pieces, within 32 KiB and 16 MiB
                  (at 16 KiB, one block, libtorrent 2.1 drops honest peers once any peer sent a wrong piece)
    pieces        SHA-1 of each piece
    private       1, only where sharing is restricted (BEP 27)

Files are sorted by the bytes of their paths, part by part; a single file is a folder of one. No date, no creator, no
trackers. The v1 companion for old clients is the same dictionary without `file tree` and `meta version`: the same
pieces, so nothing is hashed twice.

What comes from others is judged: bencoding and the rules of the dictionaries by libtorrent under our limits, names,
piece layers and addresses here. BEPs 3, 9, 12, 19, 27, 47, 52.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from converters.errors import ChangedError, shown
from distro.errors import MalformedManifestError, NotFoundError, StorageError, UnsafeRequestError, UsageError
from distro.manifest import File, Model, Variant
from distro.paths import safe_relpath
from distro.progress import Progress, Silent
from distro.urls import judge_url

if TYPE_CHECKING:
    import libtorrent as lt

SMALLEST_PIECE, LARGEST_PIECE = 32 * 1024, 16 * 1024 * 1024
_SMALLEST_READ, _LARGEST_READ = 16 * 1024, 128 * 1024 * 1024
_MOST_PIECES_WISHED = 1024

_MAX_TORRENT_BYTES = 10_000_000
_LIMITS = {"max_decode_tokens": 3_000_000, "max_decode_depth": 100, "max_pieces": 2_097_152}
_MAX_MAGNET_CHARACTERS = 65_536
_MAX_ADDRESSES = 64
_SCHEMES = ("http", "https", "udp")
_FOLDER = "model"  # the name of every folder while it is hashed
_ARRIVING = {".part", ".incomplete"}  # how ours and the hub's part files end
_FORMATS = {
    ".gguf": "gguf", ".safetensors": "safetensors", ".pth": "pth", ".bin": "pytorch", ".pt": "pytorch",
    ".ggml": "ggml", ".tar": "tar",
}  # fmt: skip
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class TorrentFile:
    """path: relative, judged. size: bytes. pieces_root: lower-case hex; None in v1-only torrents and for empty files.
    index: the file's place in libtorrent's list, which counts pad files too.
    """

    path: str
    size: int
    pieces_root: str | None
    index: int


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
        private = _named_by_content(info, self.name, self.piece_layers)
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
        return self.infohash_v2 or self.infohash_v1 or ""

    def names(self, torrent: Torrent) -> bool:
        """Whether this link means that torrent: every hash it gives is the torrent's."""
        return (self.infohash_v1 in (None, torrent.infohash_v1)) and (self.infohash_v2 in (None, torrent.infohash_v2))


def require_libtorrent() -> None:
    """Raise UsageError, with what to do, where libtorrent cannot be imported."""
    try:
        import libtorrent  # noqa: F401
    except ImportError as error:
        why = f"BitTorrent needs the package libtorrent, which could not be loaded ({error}); all other sources work"
        raise UsageError(why) from error


# Making


def make(
    path: Path,
    *,
    only: Collection[str] | None = None,
    piece_length: int | None = None,
    progress: Progress | None = None,
) -> Torrent:
    """The hybrid torrent of a folder or of one file.

    only: relative paths of the folder's files that count, by default all `model_files`.
    piece_length: bytes, a power of two from 32 KiB to 16 MiB; by default `piece_length_for` the total size.
    Raises NotFoundError where there is nothing to share, UsageError for a piece length that is not allowed,
    MalformedManifestError for a name that other machines could not store, ChangedError if a file changed meanwhile.
    """
    require_libtorrent()
    import libtorrent as lt

    files = model_files(path, only)
    before = {name: _stamp(file) for name, file in files.items()}
    total = sum(size for size, _ in before.values())
    if not total:
        raise NotFoundError(f"{shown(str(path))}: no bytes to share here")
    piece_length = _allowed(piece_length or piece_length_for(total))

    entries = [lt.create_file_entry(f"{_FOLDER}/{name}", size) for name, (size, _) in before.items()]
    flags = lt.create_torrent.canonical_files_no_tail_padding | lt.create_torrent.no_attributes
    creation = lt.create_torrent(entries, piece_length, flags)
    with (progress or Silent()).bar(f"hashing {path.name}", total) as bar:
        _hash(creation, path, bar.advance)
    for name, stamp in before.items():
        if _stamp(files[name]) != stamp:
            raise ChangedError(files[name], "size or time")

    metainfo: Any = creation.generate()
    return _named_by_content(metainfo[b"info"], str(path), metainfo[b"piece layers"])


def _named_by_content(info: Any, where: str, piece_layers: Mapping[bytes, bytes]) -> Torrent:
    import libtorrent as lt

    del info[b"name"]
    info[b"name"] = hashlib.sha256(lt.bencode(info)).hexdigest()[:16].encode()
    return from_info(lt.bencode(info), where, piece_layers=piece_layers)


def piece_length_for(total: int) -> int:
    """Bytes in a piece for so many bytes in all: at most 1024 pieces, within 32 KiB and 16 MiB."""
    piece_length = SMALLEST_PIECE
    while piece_length < LARGEST_PIECE and total > piece_length * _MOST_PIECES_WISHED:
        piece_length *= 2
    return piece_length


def model_files(path: Path, only: Collection[str] | None = None) -> dict[str, Path]:
    """The files that belong to a model, by relative path, in the order of a torrent.

    only: take these and look for no others.
    Left out: hidden files, the receipt, part files, links that lead out of the folder, whatever is no regular file.
    A path that is a file is a folder of one.
    """
    if path.is_file():
        return {_judged_name(path.name, path): path}
    if not path.is_dir():
        raise NotFoundError(f"{shown(str(path))}: no such file or folder")
    if only is not None:
        return {_judged_name(name, path): path / name for name in sorted(only, key=_torrent_order)}
    root = path.resolve()
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if _belongs(file, path, root)}
    return {_judged_name(name, path): found[name] for name in sorted(found, key=_torrent_order)}


def _judged_name(name: str, path: Path) -> str:
    try:
        return safe_relpath(name)
    except ValueError as error:
        raise _malformed(str(path), "file name", name, f"a name that every system can store ({error})") from error


def _belongs(file: Path, folder: Path, root: Path) -> bool:
    inside = file.relative_to(folder)
    if any(part.startswith(".") for part in inside.parts) or file.suffix in _ARRIVING or inside == Path("receipt.json"):
        return False
    return file.is_file() and file.resolve().is_relative_to(root)


def _torrent_order(name: str) -> list[bytes]:
    return [part.encode() for part in name.split("/")]


def _allowed(piece_length: int) -> int:
    if not SMALLEST_PIECE <= piece_length <= LARGEST_PIECE or piece_length & (piece_length - 1):
        raise UsageError(f"piece length: {piece_length} bytes, allowed are powers of two from 32 KiB to 16 MiB")
    return piece_length


def _stamp(file: Path) -> tuple[int, int]:
    """(size in bytes, time of change in nanoseconds)"""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _hash(creation: lt.create_torrent, path: Path, advance: Callable[[int], None]) -> None:
    """Let libtorrent read and hash everything; advance gets the bytes of each piece, padding included."""
    import libtorrent as lt

    folder = (path.parent if path.is_file() else path).resolve()
    with tempfile.TemporaryDirectory(prefix="distro-") as parent:
        # libtorrent wants the folder's name as the first part of every path, and ours may be any name: a link helps.
        (Path(parent) / _FOLDER).symlink_to(folder)
        try:
            lt.set_piece_hashes(creation, parent, lambda index: advance(creation.piece_size(index)))
        except RuntimeError as error:
            raise StorageError(f"{shown(str(path))}: could not be read to the end: {_reason(error)}") from error


# Reading


def read(source: Path | bytes) -> Torrent:
    """A `.torrent` file, judged: caps, libtorrent's rules, names, piece layers, addresses.

    Raises NotFoundError, MalformedManifestError.
    """
    require_libtorrent()
    import libtorrent as lt

    where = "torrent" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _bounded(source)
    if len(data) > _MAX_TORRENT_BYTES:
        raise _malformed(where, "size", f"{len(data)} bytes", f"{_MAX_TORRENT_BYTES} at most")
    params = _load(data, where)
    if params.ti is None:  # the binding's type says that it may be missing
        raise _malformed(where, "info", "none", "a dictionary")
    outer: Any = lt.bdecode(data)
    trackers, dropped = _fit_addresses("tracker", params.trackers)
    web_seeds, dropped_too = _fit_addresses("web seed", params.url_seeds)
    torrent = from_info(params.ti.info_section(), where, piece_layers=outer.get(b"piece layers") or {})
    _check_layers(torrent, where)
    return replace(torrent, trackers=trackers, web_seeds=web_seeds, dropped=dropped + dropped_too)


def from_info(info: bytes, where: str, *, piece_layers: Mapping[bytes, bytes] | None = None) -> Torrent:
    """A torrent from its bencoded info dictionary, which may have come from peers; where: for messages.

    Raises MalformedManifestError.
    """
    import libtorrent as lt

    parsed = _load(b"d4:info" + info + b"e", where).ti
    if parsed is None:
        raise _malformed(where, "info", "none", "a dictionary")
    if not _SMALLEST_READ <= parsed.piece_length() <= _LARGEST_READ:
        raise _malformed(where, "piece length", parsed.piece_length(), f"{_SMALLEST_READ} to {_LARGEST_READ} bytes")
    hashes = parsed.info_hashes()
    return Torrent(
        info=info,
        name=parsed.name(),
        piece_length=parsed.piece_length(),
        files=tuple(_files(parsed.layout(), lt.bdecode(info), where)),
        n_entries=parsed.num_files(),
        infohash_v1=str(hashes.v1) if hashes.has_v1() else None,
        infohash_v2=str(hashes.v2) if hashes.has_v2() else None,
        private=parsed.priv(),
        piece_layers=piece_layers or {},
    )


def _bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TORRENT_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(str(path))}: no such file") from error


def _load(data: bytes, where: str) -> lt.add_torrent_params:
    import libtorrent as lt

    limits: Any = _LIMITS  # which the stub takes for something else
    try:
        return lt.load_torrent_buffer(data, limits)
    except RuntimeError as error:
        raise _malformed(where, "torrent", _reason(error), "what BEPs 3, 47 and 52 define") from error


def _files(layout: lt.file_storage, info: Any, where: str) -> Iterator[TorrentFile]:
    """The files that are no padding. A name that libtorrent would change is refused, as are links."""
    import libtorrent as lt

    real = [i for i in range(layout.num_files()) if not layout.file_flags(i) & lt.file_storage.flag_pad_file]
    names = list(_names(info))
    single = len(real) == 1 and "/" not in layout.file_path(real[0])
    if len(names) != len(real):
        raise _malformed(where, "files", f"{len(names)} names of {len(real)} files", "one each")
    seen: set[str] = set()
    for index, parts in zip(real, names, strict=True):
        path = _judged_path(parts, where)
        known_as = layout.file_path(index)
        if path != (known_as if single else known_as.partition("/")[2]) or path.casefold() in seen:
            raise _malformed(where, "path", path, "a name that no other file has, in its plain form")
        if layout.file_flags(index) & lt.file_storage.flag_symlink:
            raise _malformed(where, path, "a symbolic link", "files")
        seen.add(path.casefold())
        root = layout.root(index)
        yield TorrentFile(path, layout.file_size(index), None if root.is_all_zeros() else str(root), index)


def _names(info: Any) -> Iterator[list[bytes]]:
    """The paths as they stand in the dictionary, padding left out, in the order of the torrent."""
    if b"files" in info:
        for entry in info[b"files"]:
            if b"p" not in entry.get(b"attr", b""):
                yield entry.get(b"path.utf-8") or entry[b"path"]
    elif b"length" in info:
        yield [info.get(b"name.utf-8") or info[b"name"]]
    else:
        yield from _tree_names(info[b"file tree"], [])


def _tree_names(tree: Any, above: list[bytes]) -> Iterator[list[bytes]]:
    for name in sorted(tree):
        if b"" in tree[name]:
            yield [*above, name]
        else:
            yield from _tree_names(tree[name], [*above, name])


def _judged_path(parts: list[bytes], where: str) -> str:
    try:
        return safe_relpath(b"/".join(parts).decode())
    except ValueError as error:  # that it is no UTF-8 is one, too
        raise _malformed(where, "path", b"/".join(parts), f"a name that every system can store ({error})") from error


def _check_layers(torrent: Torrent, where: str) -> None:
    """A v2 file of several pieces must come with their digests, or no piece of it could be proven."""
    for file in torrent.files:
        if file.pieces_root is None or file.size <= torrent.piece_length:
            continue
        layer = torrent.piece_layers.get(bytes.fromhex(file.pieces_root), b"")
        expected = -(-file.size // torrent.piece_length) * 32
        if len(layer) != expected:
            raise _malformed(where, f"piece layers of {file.path}", f"{len(layer)} bytes", f"{expected}")


def _fit_addresses(kind: str, urls: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those that may be asked, a line for each that may not)"""
    fit, dropped = [], []
    for url in dict.fromkeys(urls):
        try:
            judge_url(url, _SCHEMES)
            fit.append(url)
        except ValueError as error:
            dropped.append(f"{kind} {shown(url)} dropped: {error}")
    if len(fit) > _MAX_ADDRESSES:
        dropped.append(f"{len(fit) - _MAX_ADDRESSES} of {len(fit)} {kind}s dropped: {_MAX_ADDRESSES} are enough")
    if len(dropped) > _MAX_ADDRESSES:
        dropped[_MAX_ADDRESSES:] = [f"{len(dropped) - _MAX_ADDRESSES} more dropped"]
    return tuple(fit[:_MAX_ADDRESSES]), tuple(dropped)


def _reason(error: RuntimeError) -> str:
    """libtorrent's words without its number: `invalid length of torrent [libtorrent:9]`."""
    return re.sub(r" \[\w+:\d+\]$", "", str(error))


def _malformed(where: str, field_name: str, found: object, allowed: str) -> MalformedManifestError:
    return MalformedManifestError(where, field_name, found=found, allowed=allowed)


# Magnet links


def parse_magnet(text: str) -> Magnet:
    """A magnet link, judged: one torrent, whole hashes; addresses that are not fit are dropped.

    Raises MalformedManifestError.
    """
    if len(text) > _MAX_MAGNET_CHARACTERS:
        raise _malformed("magnet", "length", f"{len(text)} characters", f"{_MAX_MAGNET_CHARACTERS} at most")
    if not text.lower().startswith("magnet:?"):
        raise _malformed("magnet", "link", text, "magnet:?xt=urn:btih:… or urn:btmh:…")
    values: dict[str, list[str]] = {}
    for key, value in parse_qsl(text[len("magnet:?") :], keep_blank_values=True, errors="replace"):
        values.setdefault(key.lower() if key.lower() == "x.pe" else key.lower().partition(".")[0], []).append(value)

    v1 = _one_hash("btih", values.get("xt", []), _v1_hash)
    v2 = _one_hash("btmh", values.get("xt", []), _v2_hash)
    if v1 is None and v2 is None:
        raise _malformed("magnet", "xt", values.get("xt", "nothing"), "urn:btih:… or urn:btmh:…")
    trackers, dropped = _fit_addresses("tracker", values.get("tr", []))
    web_seeds, dropped_seeds = _fit_addresses("web seed", values.get("ws", []))
    peers, dropped_peers = _fit_peers(values.get("x.pe", []))
    if "so" in values:
        dropped += ("file selection (so) dropped: what is fetched is chosen here",)
    return Magnet(v1, v2, next(iter(values.get("dn", [])), None), trackers, web_seeds, peers,
                  dropped + dropped_seeds + dropped_peers)  # fmt: skip


def parse_peer(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises ValueError with the reason."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not parts.port or parts.path or parts.username is not None:
        raise ValueError("a peer that is not HOST:PORT")
    return parts.hostname, parts.port


def _one_hash(kind: str, topics: list[str], judge: Callable[[str], str]) -> str | None:
    prefix = f"urn:{kind}:"
    found = {judge(topic[len(prefix) :]) for topic in topics if topic.lower().startswith(prefix)}
    if len(found) > 1:
        raise _malformed("magnet", f"xt urn:{kind}", f"{len(found)} different hashes", "one torrent")
    return next(iter(found), None)


def _v1_hash(text: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{40}", text):
        return text.lower()
    if re.fullmatch(r"[A-Za-z2-7]{32}", text):
        return base64.b32decode(text.upper()).hex()
    raise _malformed("magnet", "xt urn:btih", text, "40 hex or 32 base32 digits")


def _v2_hash(text: str) -> str:
    if re.fullmatch(r"1220[0-9a-fA-F]{64}", text):
        return text[4:].lower()
    raise _malformed("magnet", "xt urn:btmh", text, "1220 and 64 hex digits, a SHA-256 multihash")


def _fit_peers(texts: list[str]) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """(peers that a stranger may send us to, a line for each that not): public addresses only"""
    fit, dropped = [], []
    for text in texts[:_MAX_ADDRESSES]:
        try:
            host, port = parse_peer(text)
            public = ipaddress.ip_address(host).is_global
        except ValueError as error:
            dropped.append(f"peer {shown(text)} dropped: {error}")
            continue
        if public:
            fit.append((host, port))
        else:
            dropped.append(f"peer {shown(text)} dropped: an address that is not public")
    return tuple(fit), tuple(dropped)


# Models


def variant_from_torrent(
    torrent: Torrent, *, source: str | None = None, allow_sha1: bool = False
) -> tuple[Model, Variant]:
    """What a torrent brings, as a model of one variant; v2 files carry their pieces root as digest.

    source: the reference that it came from, default its magnet link. The name is made from the infohash, because names
    inside torrents are anybody's. Raises UnsafeRequestError for a v1-only torrent: SHA-1 does not prove files any more.
    """
    if torrent.infohash_v2 is None and not allow_sha1:
        raise UnsafeRequestError(
            f"{shown(torrent.name)}: this torrent is proven by SHA-1 alone, which can be forged; "
            "a manifest with SHA-256 digests would do, or --allow-sha1"
        )
    origin = f"torrent {torrent.infohash}"
    files = tuple(
        File(
            file.path,
            file.size,
            _EMPTY_SHA256 if not file.size else None,
            pieces_root=file.pieces_root,
            origin=(origin,),
        )
        for file in torrent.files
    )
    variant = Variant(_format(files), _format(files), files, (source or torrent.magnet(),))
    model = Model(f"torrent-{torrent.infohash[:16]}", 0, "unknown", variant.name, (variant,))
    return model, variant


def _format(files: Sequence[File]) -> str:
    """Of the largest file, by its suffix."""
    largest = max(files, key=lambda file: file.size or 0)
    return _FORMATS.get(Path(largest.path).suffix.lower(), "other")
