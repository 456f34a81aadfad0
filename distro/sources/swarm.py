"""The source `swarm`: a torrent's files from its peers, by `magnet:` link or `.torrent` file.

Each file arrives in a work folder of its own beside its partial file, under a name of ours; what the torrent calls it
and its other files never touch the disk. After a kill libtorrent hashes what is there and asks for the rest alone. The
work folder goes when the partial file has taken the data over.

    <area>/<key>.swarm/data               the file while it arrives, sparse
    <area>/<key>.swarm/.<infohash>.parts  libtorrent's: pieces of v1 torrents that reach into a neighbour
"""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.config import Settings
from distro.errors import DiskFullError, NotThereError, SourceError, StorageError, UsageError, WrongBytesError
from distro.manifest import File, Variant
from distro.pace import pace_of
from distro.progress import Bar
from distro.sources.base import Source
from distro.swarm.binding import require_libtorrent
from distro.swarm.magnet import parse_magnet
from distro.swarm.session import Session, open_session
from distro.swarm.torrent import Torrent, from_info, read
from distro.swarm.torrent_file import TorrentFile

if TYPE_CHECKING:
    import libtorrent as lt

    from distro.store import Partial

_TICK_S = 0.2
_BLOCK_BYTES = 16 * 1024  # less than this in `timeout_s` is no progress
_AFTER_A_LIE_S = 3.0
_MOST_TROUBLES = 3  # in an error message
_MOST_PEERS = 50  # remembered from one file to the next
_CHOSEN = 4  # libtorrent's default priority; 0 is "not at all"


def open_swarm(
    settings: Settings, reference: str, variant: Variant, *, peers: Sequence[tuple[str, int]] = ()
) -> Source:
    """The swarm of a `magnet:` link or a `.torrent` file. No peer is asked before the first transfer.

    peers: host and port of those to ask besides the ones that are found. variant: the files that may be asked for.
    Raises SourceError where there is to be no network, MalformedManifestError for a reference that breaks its rules.
    """
    return _Swarm(settings, reference, peers)


def find_torrent(settings: Settings, reference: str, *, peers: Sequence[tuple[str, int]] = ()) -> Torrent:
    """The torrent behind a reference: a file is read, a magnet's info dictionary is asked of peers and judged.

    Raises SourceError if no peer sent it in `timeout_s`, MalformedManifestError if it breaks its rules.
    """
    if not _is_magnet(reference):
        return read(Path(reference))
    with closing(_Swarm(settings, reference, peers)) as swarm:
        return swarm.torrent()


class _Swarm:
    """One session for all files of a torrent; each file is added, awaited and removed by itself."""

    def __init__(self, settings: Settings, reference: str, peers: Sequence[tuple[str, int]]) -> None:
        self._settings = settings
        self._pace = pace_of(settings, "swarm")
        try:
            require_libtorrent()
        except UsageError as error:  # another source may do
            raise SourceError("swarm", str(error)) from error
        if _is_magnet(reference):
            self._torrent = None
            self._magnet = parse_magnet(reference)
        else:
            self._torrent = read(Path(reference))
            self._magnet = parse_magnet(self._torrent.magnet())
        self._open = ExitStack()
        self._session: Session | None = None
        self._liars: set[str] = set()  # addresses, as are the next
        self._shunned: set[str] = set()
        self.name = f"swarm {self._magnet.infohash[:16]}"
        if settings.offline:
            raise SourceError(self.name, "no network is to be used")
        self._named_peers = [_address(self.name, host, port) for host, port in peers]
        self._peers = list(dict.fromkeys([*self._named_peers, *self._magnet.peers]))

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        torrent = self.torrent()
        wanted = _find(torrent, file)
        if not wanted.size:
            return
        area = partial.path.with_name(partial.path.name.partition(".")[0] + ".swarm")
        area.mkdir(mode=0o700, exist_ok=True)
        self._bring(torrent, wanted, area, _Meter(bar, partial.size))
        partial.adopt(area / "data")
        shutil.rmtree(area, ignore_errors=True)

    def torrent(self) -> Torrent:
        """The torrent, asked of peers the first time where only its magnet link is known."""
        if self._torrent is None:
            with (
                tempfile.TemporaryDirectory(prefix="distro-") as area,
                self._running(self._magnet_params(area)) as handle,
            ):
                info = self._await_info(handle)
            torrent = from_info(info, self.name)
            magnet = self._magnet
            self._torrent = replace(
                torrent, trackers=magnet.trackers, web_seeds=magnet.web_seeds, dropped=magnet.dropped
            )
        return self._torrent

    def close(self) -> None:
        self._open.close()
        self._session = None

    @contextmanager
    def _running(self, params: lt.add_torrent_params) -> Iterator[lt.torrent_handle]:
        """A torrent in the session, stopped and its file closed at the end; its peers are remembered."""
        import libtorrent as lt

        session = self._connected()
        params.peers = self._peers
        params.download_limit = self._pace.rate or -1
        handle = session.add(params)
        try:
            yield handle
            outgoing = [peer.ip for peer in handle.get_peer_info() if peer.flags & lt.peer_info.local_connection]
            self._peers = list(dict.fromkeys([*self._peers, *outgoing]))[:_MOST_PEERS]
        finally:
            session.remove(handle)

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._open.enter_context(open_session(dht=self._needs_dht, peers=self._named_peers))
        return self._session

    @property
    def _needs_dht(self) -> bool:
        """Only if the reference gives no other way to any peer, and its maker did not forbid it."""
        private = self._torrent is not None and self._torrent.private
        return not (self._peers or self._magnet.trackers or self._magnet.web_seeds or private)

    def _magnet_params(self, area: str) -> lt.add_torrent_params:
        import libtorrent as lt

        v1, v2 = self._magnet.infohash_v1, self._magnet.infohash_v2
        params = lt.add_torrent_params()
        params.info_hashes = lt.info_hash_t(
            lt.sha1_hash(bytes.fromhex(v1)) if v1 else lt.sha1_hash(),
            lt.sha256_hash(bytes.fromhex(v2)) if v2 else lt.sha256_hash(),
        )
        params.trackers = list(self._magnet.trackers)
        params.save_path = area  # where nothing is written, as no file is chosen
        params.flags |= lt.torrent_flags.default_dont_download
        return params

    def _file_params(self, torrent: Torrent, wanted: TorrentFile, area: Path) -> lt.add_torrent_params:
        """One file of a torrent, to arrive as `area/data`."""
        import libtorrent as lt

        params = lt.load_torrent_buffer(torrent.encode())
        params.save_path = params.part_file_dir = str(area)
        params.renamed_files = {wanted.index: str(area / "data")}
        params.file_priorities = [0] * wanted.index + [_CHOSEN] + [0] * (torrent.n_entries - wanted.index - 1)
        return params

    def _await_info(self, handle: lt.torrent_handle) -> bytes:
        """The bencoded info dictionary, whose hash libtorrent has checked."""
        watch = self._watch("the torrent's description")
        while (found := handle.torrent_file()) is None:
            watch.look(handle)
        return found.info_section()

    def _bring(self, torrent: Torrent, wanted: TorrentFile, area: Path, meter: _Meter) -> None:
        """Until the file is complete. Whoever was banned for wrong bytes is left out, then tried alone.

        libtorrent 2.1 asks nobody else for a piece of one block that came wrong, so a try is begun anew without those
        who were banned; and where several peers sent a piece it may ban the honest ones too, so that nobody is called
        a liar but who sent wrong bytes when asked alone. Raises SourceError.
        """
        shunned = set(self._shunned)
        suspects = sorted(shunned - self._liars)
        while True:
            banned, trouble = self._try(torrent, wanted, area, meter, shunned)
            if trouble is None:
                self._shunned = shunned  # whoever was enough for this file comes first for the next
                return
            known = {host for host, _ in self._peers}
            if known - shunned == banned and len(banned) == 1:
                self._liars |= banned
            suspects += sorted(banned - self._liars - set(suspects))
            others = known - shunned - banned
            if banned and (others or (self._magnet.trackers and banned - shunned)):
                shunned |= banned
            elif suspects:
                shunned = known - {suspects.pop(0)}
            else:
                raise trouble

    def _try(
        self, torrent: Torrent, wanted: TorrentFile, area: Path, meter: _Meter, shunned: set[str]
    ) -> tuple[set[str], SourceError | None]:
        """(addresses of peers that were banned, why nothing comes any more: None if the file is complete)"""
        import libtorrent as lt

        self._connected().shun(shunned)
        watch = self._watch(wanted.path)
        with self._running(self._file_params(torrent, wanted, area)) as handle:
            try:
                while True:
                    if not self._pace.is_open:
                        handle.pause()
                        self._pace.wait()
                        handle.resume()
                        watch.begin_again()
                    status = watch.look(handle)
                    meter.show(status, handle.file_progress(lt.torrent_handle.piece_granularity)[wanted.index])
                    if status.is_finished:
                        return watch.banned, None
            except SourceError as error:
                return watch.banned, error

    def _watch(self, what: str) -> _Watch:
        asked = [f"{len(self._magnet.trackers)} trackers asked"] if self._magnet.trackers else []
        asked += ["the DHT asked"] if self._needs_dht else []
        return _Watch(self._connected(), f"{self.name}: {shown(what)}", self._settings.timeout_s, asked)


class _Meter:
    """The bar of one file, which only grows. n_bytes: what it shows."""

    def __init__(self, bar: Bar, n_bytes: int) -> None:
        self._bar, self._n_bytes = bar, n_bytes
        self._peers = ""

    def show(self, status: lt.torrent_status, n_verified: int) -> None:
        self._bar.advance(max(0, n_verified - self._n_bytes))
        self._n_bytes = max(n_verified, self._n_bytes)
        peers = f"peers {status.num_peers} ({status.num_seeds} seeds)"
        if peers != self._peers:
            self._bar.note(peers)
            self._peers = peers


class _Watch:
    """Looks after one wait: gives up when nothing comes, and then says what was tried.

    banned: addresses of peers that were banned for wrong bytes; after the first of them patience is short.
    """

    def __init__(self, session: Session, what: str, timeout_s: float, asked: Sequence[str]) -> None:
        self._session, self._what, self._timeout_s, self._asked = session, what, timeout_s, asked
        self._n_payload = 0
        self._deadline = time.monotonic() + timeout_s
        self._troubles: dict[str, None] = {}  # in order, each once
        self.banned: set[str] = set()

    def begin_again(self) -> None:
        """After a rest that we took ourselves."""
        self._deadline = time.monotonic() + self._patience_s

    def look(self, handle: lt.torrent_handle) -> lt.torrent_status:
        """Wait a moment, then the state of things. Raises SourceError, DiskFullError, StorageError."""
        import libtorrent as lt

        for alert in self._session.alerts(_TICK_S):
            self._note(alert)
        status = handle.status()
        checking = status.state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data)
        if checking or status.is_finished or status.total_payload_download >= self._n_payload + _BLOCK_BYTES:
            self._n_payload = status.total_payload_download
            self._deadline = time.monotonic() + self._patience_s
        elif time.monotonic() > self._deadline:
            tried = [f"{status.num_peers} of {status.list_peers} known peers connected", *self._asked]
            why = f"nothing came in {self._patience_s:g} s ({', '.join(tried)})"
            raise SourceError(self._what, "; ".join([why, *self._troubles]))
        return status

    @property
    def _patience_s(self) -> float:
        return min(self._timeout_s, _AFTER_A_LIE_S) if self.banned else self._timeout_s

    def _note(self, alert: lt.alert) -> None:
        import libtorrent as lt

        if isinstance(alert, lt.peer_ban_alert):
            self.banned.add(alert.endpoint[0])
            self._deadline = min(self._deadline, time.monotonic() + self._patience_s)
        if isinstance(alert, lt.file_error_alert):
            why = f"{shown(alert.filename())}: {shown(alert.error.message())}"
            raise DiskFullError(why) if alert.error.value() in (errno.ENOSPC, errno.EDQUOT) else StorageError(why)
        telling = (lt.tracker_error_alert, lt.hash_failed_alert, lt.peer_ban_alert, lt.peer_error_alert)
        if isinstance(alert, telling) and len(self._troubles) < _MOST_TROUBLES:
            self._troubles[shown(alert.message())] = None


def _address(source: str, host: str, port: int) -> tuple[str, int]:
    """A peer's name as the address that libtorrent wants. Raises SourceError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceError(source, f"peer {shown(host)}: {error.strerror}") from error
    return str(found[0][4][0]), port


def _is_magnet(reference: str) -> bool:
    return reference.lower().startswith("magnet:")


def _find(torrent: Torrent, file: File) -> TorrentFile:
    """The torrent's file that a manifest means: the same path, else the one that ends in it.

    Raises NotThereError if it has none, WrongBytesError if it has another size or v2 digest.
    """
    same = [each for each in torrent.files if each.path == file.path]
    below = [each for each in torrent.files if each.path.endswith("/" + file.path)]
    found = same or below
    if len(found) != 1:
        raise NotThereError(
            f"torrent {torrent.infohash[:16]}", f"{shown(file.path)}: {len(found) or 'no'} such file in it"
        )
    if file.size not in (None, found[0].size):
        raise WrongBytesError(file.path, "size in the torrent", f"{found[0].size} bytes", f"{file.size} bytes")
    if file.pieces_root and found[0].pieces_root and file.pieces_root != found[0].pieces_root:
        raise WrongBytesError(file.path, "pieces_root in the torrent", found[0].pieces_root, file.pieces_root)
    return found[0]
