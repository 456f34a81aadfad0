"""The source `swarm`: a torrent's files from its peers, by `magnet:` link or `.torrent` file.

A file that is proven in pieces is filled beside other sources (`bring`): libtorrent writes into its part file. Any
other arrives in a work folder of its own beside that, under a name of ours, and goes on there after a kill: libtorrent
hashes what is there and asks for the rest alone. What the torrent calls its files, and those that are not wanted, never
touch the disk.

    <area>/<key>.swarm/data                          a whole file while it arrives, sparse
    <area>/<key>.swarm/.<infohash>.parts             libtorrent's: pieces of v1 torrents that reach into a neighbour
    <area>/<part>.swarm/<infohash>/.<infohash>.parts the same where a part file is filled, for as long as it is
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.config import Settings
from distro.errors import (
    CannotCreateError,
    MalformedManifestError,
    NotThereError,
    SourceError,
    UsageError,
    WrongBytesError,
)
from distro.manifest import File, Variant
from distro.manners.pace import pace_of
from distro.progress import Bar
from distro.sources.base import Source
from distro.swarm.binding import require_libtorrent
from distro.swarm.filling import Filling
from distro.swarm.magnet import parse_magnet
from distro.swarm.torrent import Torrent, from_info, read
from distro.swarm.torrent_file import TorrentFile
from distro.swarm.visit import OverError, Visits, Watch

if TYPE_CHECKING:
    import libtorrent as lt

    from distro.fetching.errand import Errand
    from distro.store import Partial

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
        try:
            require_libtorrent()
        except UsageError as error:  # another source may do
            raise SourceError("swarm", str(error)) from error
        self._torrent = None if _is_magnet(reference) else read(Path(reference))
        self._magnet = parse_magnet(self._torrent.magnet() if self._torrent else reference)
        self.name = f"swarm {self._magnet.infohash[:16]}"
        if settings.offline:
            raise SourceError(self.name, "no network is to be used")
        named = [_address(self.name, host, port) for host, port in peers]
        # The DHT is asked only if the reference gives no other way to any peer, and its maker did not forbid it.
        is_private = self._torrent is not None and self._torrent.private
        leads = (named, self._magnet.peers, self._magnet.trackers, self._magnet.web_seeds)
        self._visits = Visits(
            self.name, named, self._magnet.peers, settings.timeout_s, pace_of(settings, "swarm"),
            n_trackers=len(self._magnet.trackers), dht=not (any(leads) or is_private),
        )  # fmt: skip

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        """The whole file, in a work folder of its own."""
        import libtorrent as lt

        torrent = self.torrent()
        wanted = _find(torrent, file)
        if not wanted.size:
            return
        area = partial.path.with_name(partial.path.name.partition(".")[0] + ".swarm")
        area.mkdir(mode=0o700, exist_ok=True)
        meter = _Meter(bar, partial.size)

        def await_all(handle: lt.torrent_handle, watch: Watch) -> None:
            while not (status := watch.look(handle)).is_finished:
                meter.show(status, handle.file_progress(lt.torrent_handle.piece_granularity)[wanted.index])
            meter.show(status, wanted.size)

        self._visits.bring(wanted.path, lambda: _params(torrent, wanted, area, area / "data"), await_all)
        partial.adopt(area / "data")
        shutil.rmtree(area, ignore_errors=True)

    def bring(self, errand: Errand) -> None:
        """Pieces of a file, into its part file."""
        area = errand.path.with_suffix(".swarm") / self._magnet.infohash[:16]
        with suppress(OverError), self._told():
            torrent = self.torrent(lambda: errand.is_over)
            wanted = _find(torrent, errand.file)
            filling = Filling(errand, torrent, wanted)

            def params() -> lt.add_torrent_params:
                made = _params(torrent, wanted, area, errand.path)
                made.have_pieces = filling.had  # all of it are known, so that nothing is read for a check
                made.piece_priorities = filling.priorities()
                return made

            area.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._visits.bring(wanted.path, params, filling, lambda: errand.is_over, errand.say)
            finally:
                shutil.rmtree(area, ignore_errors=True)
                with suppress(OSError):  # another swarm's may be there
                    area.parent.rmdir()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with a session or with a description of strangers is no fault of the other sources."""
        try:
            yield
        except (CannotCreateError, MalformedManifestError) as error:
            raise SourceError(self.name, str(error)) from error

    def torrent(self, stopped: Callable[[], bool] = lambda: False) -> Torrent:
        """The torrent, asked of peers the first time where only its magnet link is known."""
        if self._torrent is None:
            with tempfile.TemporaryDirectory(prefix="distro-") as area:
                info = self._visits.description(self._magnet_params(area), stopped)
            torrent = from_info(info, self.name)
            magnet = self._magnet
            self._torrent = replace(
                torrent, trackers=magnet.trackers, web_seeds=magnet.web_seeds, dropped=magnet.dropped
            )
        return self._torrent

    def close(self) -> None:
        self._visits.close()

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


def _params(torrent: Torrent, wanted: TorrentFile, area: Path, place: Path) -> lt.add_torrent_params:
    """One file of a torrent, to arrive at `place`; area: for pieces that reach into a neighbour."""
    import libtorrent as lt

    params = lt.load_torrent_buffer(torrent.encode())
    params.save_path = params.part_file_dir = str(area)
    params.renamed_files = {wanted.index: str(place)}
    params.file_priorities = [0] * wanted.index + [_CHOSEN] + [0] * (torrent.n_entries - wanted.index - 1)
    return params


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
