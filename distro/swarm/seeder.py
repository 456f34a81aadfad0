"""Seeding: files where they lie, as they are, served until somebody or something says stop.

Nothing is copied and nothing is believed for long: the files were verified by the caller, libtorrent hashes a piece
again before it is sent the first time, and a torrent whose file changed on the disk is stopped within `RECHECK_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import ChangedError, MissingError, shown
from distro.errors import StorageError, UsageError
from distro.progress import Bar, Progress
from distro.swarm.session import Session, open_session
from distro.swarm.torrent import Torrent

if TYPE_CHECKING:
    import libtorrent as lt

RECHECK_S = 2.0
_TICK_S = 0.2


@dataclass(frozen=True)
class Share:
    """One torrent to serve. label: for people. files: where each of the torrent's files lies, by its path in it."""

    label: str
    torrent: Torrent
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Manners:
    """How to serve. port: 0 is any. trackers: announced to, besides the torrent's own. limit: bytes per second for each
    torrent, 0 without limit. ratio: a torrent stops after so many times its size was sent. duration_s: all stop then.
    """

    interface: str = "0.0.0.0"  # noqa: S104  a seeder is there for everybody
    port: int = 0
    trackers: tuple[str, ...] = ()
    dht: bool = False
    limit: int = 0
    ratio: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Served:
    """How it went. uploaded: payload bytes. trouble: why the torrent was stopped early, None if it was not."""

    label: str
    uploaded: int
    trouble: Exception | None = None


def seed(
    shares: Sequence[Share],
    manners: Manners,
    *,
    ready: Callable[[Share, str], None],
    stop: threading.Event,
    progress: Progress,
) -> list[Served]:
    """Serve until `stop` is set, the time is over, or no torrent is left. Gives what was sent, in the given order.

    ready: called for each share once it is served, with the address that peers find it at. A torrent that has to stop
    before is said at once.
    Raises CannotCreateError where nothing can listen; UsageError for DHT with a private torrent.
    """
    if manners.dht and any(share.torrent.private for share in shares):
        raise UsageError("a private torrent is never announced to the DHT")
    with open_session(
        interface=manners.interface, port=manners.port, dht=manners.dht, local=bool(manners.trackers)
    ) as session:
        running = [_Running(share, manners, session, progress) for share in shares]
        for each in running:
            ready(each.share, session.address)
        with progress.bar("sent", None) as bar:
            _serve(running, session, manners, stop, bar)
    return [Served(each.share.label, each.uploaded, each.trouble) for each in running]


def _serve(running: Sequence[_Running], session: Session, manners: Manners, stop: threading.Event, bar: Bar) -> None:
    end = None if manners.duration_s is None else time.monotonic() + manners.duration_s
    recheck, shown_bytes, shown_peers = time.monotonic(), 0, -1
    while not stop.is_set() and any(each.is_on for each in running) and (end is None or time.monotonic() < end):
        if time.monotonic() >= recheck:
            for each in running:
                each.check_files()
            recheck = time.monotonic() + RECHECK_S
        for alert in session.alerts(_TICK_S):
            for each in running:
                each.hear(alert)
        n_peers = sum(each.look(manners.ratio) for each in running)
        n_uploaded = sum(each.uploaded for each in running)
        bar.advance(n_uploaded - shown_bytes)
        if n_peers != shown_peers:
            bar.note(f"peers {n_peers}")
        shown_bytes, shown_peers = n_uploaded, n_peers


class _Running:
    """A share that is served, until it is stopped."""

    def __init__(self, share: Share, manners: Manners, session: Session, progress: Progress) -> None:
        self.share, self._session, self._progress = share, session, progress
        self.uploaded = 0
        self.trouble: Exception | None = None
        self.is_on = True
        self._stamps = {path: _stamp(path) for path in share.files.values()}
        self._handle = session.add(_params(share, manners))

    def check_files(self) -> None:
        """Stop if a file is not what it was when the share began."""
        for path, stamp in self._stamps.items():
            try:
                if self.is_on and _stamp(path) != stamp:
                    self._stop(ChangedError(path, "size or time; seeding of it was stopped"))
            except MissingError as error:
                self._stop(error)

    def hear(self, alert: lt.alert) -> None:
        """Stop if libtorrent could not read a file, or found other bytes in it than the torrent says."""
        import libtorrent as lt

        if not self.is_on or not isinstance(alert, lt.torrent_alert) or alert.handle != self._handle:
            return
        whole = (lt.torrent_status.seeding, lt.torrent_status.finished)
        if isinstance(alert, lt.file_error_alert):
            self._stop(StorageError(f"{shown(alert.filename())}: {shown(alert.error.message())}"))
        elif isinstance(alert, lt.state_changed_alert) and alert.state not in whole:
            # A piece was hashed before it was sent the first time, and is not what the torrent says.
            where = self.share.label if len(self._stamps) > 1 else next(iter(self._stamps))
            self._stop(ChangedError(where, "other bytes than in the torrent; seeding of it was stopped"))

    def look(self, ratio: float | None) -> int:
        """Count what was sent; stop at the ratio. Gives the number of peers."""
        if not self.is_on:
            return 0
        status = self._handle.status()
        self.uploaded = status.total_payload_upload
        if ratio is not None and self.uploaded >= ratio * self.share.torrent.size:
            self._stop(None)
        return status.num_peers

    def _stop(self, trouble: Exception | None) -> None:
        if self.is_on:
            self.is_on = False
            self.trouble = trouble
            if trouble is not None:
                self._progress.say(str(trouble))
            self.uploaded = self._handle.status().total_payload_upload
            self._session.remove(self._handle)


def _params(share: Share, manners: Manners) -> lt.add_torrent_params:
    import libtorrent as lt

    torrent = share.torrent
    params = lt.load_torrent_buffer(torrent.encode())
    params.save_path = str(next(iter(share.files.values())).parent)
    params.renamed_files = {file.index: str(share.files[file.path].absolute()) for file in torrent.files}
    params.trackers = [*dict.fromkeys([*torrent.trackers, *manners.trackers])]
    params.upload_limit = manners.limit or -1  # of the torrent: libtorrent's session limit does not bind near peers
    params.flags |= lt.torrent_flags.seed_mode
    if not manners.dht:
        params.flags |= lt.torrent_flags.disable_dht
    return params


def _stamp(path: Path) -> tuple[int, int]:
    """(size in bytes, time of change in nanoseconds). Raises MissingError."""
    try:
        status = path.stat()
    except OSError as error:
        raise MissingError(path, "seeding of it was stopped") from error
    return status.st_size, status.st_mtime_ns
