"""Visits to a swarm: a torrent in a session until what was wanted of it is there, or nothing comes any more.

libtorrent 2.1 asks nobody else for a piece of one block that came wrong, so a visit is begun anew without those who
were banned; and where several peers sent a piece it may ban the honest ones too, so that nobody is called a liar but
who sent wrong bytes when asked alone.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import DiskFullError, SourceError, StorageError
from distro.manners.pace import Pace
from distro.swarm.session import Session, open_session

if TYPE_CHECKING:
    import libtorrent as lt

_TICK_S = 0.1
_BLOCK_BYTES = 16 * 1024  # less than this in `timeout_s` is no progress
_AFTER_A_LIE_S = 3.0
_FLUSH_S = 30.0
_MOST_TROUBLES = 3  # in an error message
_MOST_PEERS = 50  # remembered from one visit to the next


class OverError(Exception):
    """Whoever wanted something does not want it any more."""


def _never() -> bool:
    return False


class Visits:
    """One session for all visits to a swarm; what they learn of its peers goes from one to the next.

    peers: addresses of those that are known. pace: how fast and when bytes may come.
    """

    def __init__(
        self, name: str, named_peers: Sequence[tuple[str, int]], peers: Sequence[tuple[str, int]],
        timeout_s: float, pace: Pace, *, n_trackers: int, dht: bool,
    ) -> None:  # fmt: skip
        """name: of the source, for messages. named_peers: by the user. dht: whether it is to be asked."""
        self.pace = pace
        self.peers = list(dict.fromkeys([*named_peers, *peers]))
        self._name, self._named_peers, self._timeout_s = name, tuple(named_peers), timeout_s
        self._n_trackers, self._dht = n_trackers, dht
        self._open = ExitStack()
        self._session: Session | None = None
        self._liars: set[str] = set()  # addresses, as are the next
        self._shunned: set[str] = set()

    def bring(
        self,
        what: str,
        params: Callable[[], lt.add_torrent_params],
        work: Callable[[lt.torrent_handle, Watch], None],
        stopped: Callable[[], bool] = _never,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Until `work` is done, or raises, with a torrent in the session. Whoever sent wrong bytes is left out of the
        next visit, then tried alone.

        what: is wanted. params: of the torrent, made anew for each visit. stopped: whether it is not wanted any more;
        then `OverError` is raised. say: told of peers that are banned. Raises SourceError where nothing comes any more.
        """
        shunned = set(self._shunned)
        suspects = sorted(shunned - self._liars)
        while True:
            self._connected().shun(shunned)
            watch = self._watch(what, stopped, say)
            trouble = self._visit(params(), work, watch)
            if trouble is None:
                self._shunned = shunned  # whoever was enough for this comes first for the next
                return
            banned, known = watch.banned, {host for host, _ in self.peers}
            if known - shunned == banned and len(banned) == 1:
                self._liars |= banned
            suspects += sorted(banned - self._liars - set(suspects))
            others = known - shunned - banned
            if banned and (others or (self._n_trackers and banned - shunned)):
                shunned |= banned
            elif suspects:
                shunned = known - {suspects.pop(0)}
            else:
                raise trouble

    def description(self, params: lt.add_torrent_params, stopped: Callable[[], bool] = _never) -> bytes:
        """The bencoded info dictionary, whose hash libtorrent has checked. Raises SourceError, OverError."""
        watch = self._watch("the torrent's description", stopped)
        with self._running(params) as handle:
            while (found := handle.torrent_file()) is None:
                watch.look(handle)
            return found.info_section()

    def close(self) -> None:
        """Nothing is written any more when this returns."""
        self._open.close()
        self._session = None

    def _visit(
        self, params: lt.add_torrent_params, work: Callable[[lt.torrent_handle, Watch], None], watch: Watch
    ) -> SourceError | None:
        """Why nothing comes any more, None if all is done."""
        with self._running(params) as handle:
            try:
                work(handle, watch)
            except SourceError as error:
                return error
        return None

    @contextmanager
    def _running(self, params: lt.add_torrent_params) -> Iterator[lt.torrent_handle]:
        """A torrent in the session, stopped and its file closed at the end; its peers are remembered."""
        import libtorrent as lt

        session = self._connected()
        params.peers = self.peers
        params.download_limit = self.pace.rate or -1
        handle = session.add(params)
        try:
            yield handle
            outgoing = [peer.ip for peer in handle.get_peer_info() if peer.flags & lt.peer_info.local_connection]
            self.peers = list(dict.fromkeys([*self.peers, *outgoing]))[:_MOST_PEERS]
        finally:
            if not session.remove(handle):
                self.close()

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._open.enter_context(open_session(dht=self._dht, peers=self._named_peers))
        return self._session

    def _watch(self, what: str, stopped: Callable[[], bool], say: Callable[[str], None] = lambda text: None) -> Watch:
        asked = [f"{self._n_trackers} trackers asked"] if self._n_trackers else []
        asked += ["the DHT asked"] if self._dht else []
        where = f"{self._name}: {shown(what)}"
        return Watch(self._connected(), where, self._timeout_s, asked, self.pace, stopped, say)


class Watch:
    """Looks after one visit: gives up when nothing comes, and then says what was tried.

    banned: addresses of peers that were banned for wrong bytes; after the first of them patience is short.
    failed: pieces of the torrent that were found wrong since this was last emptied.
    """

    def __init__(
        self, session: Session, what: str, timeout_s: float, asked: Sequence[str], pace: Pace,
        stopped: Callable[[], bool], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._session, self._what, self._timeout_s, self._asked = session, what, timeout_s, asked
        self._pace, self._stopped, self._say = pace, stopped, say
        self._n_payload = 0
        self._deadline = time.monotonic() + timeout_s
        self._troubles: dict[str, None] = {}  # in order, each once
        self.banned: set[str] = set()
        self.failed: set[int] = set()

    def look(self, handle: lt.torrent_handle, *, is_idle: bool = False) -> lt.torrent_status:
        """Wait a moment, between the hours a long one, then the state of things.

        is_idle: nothing is asked for. Raises SourceError, OverError, DiskFullError, StorageError.
        """
        import libtorrent as lt

        if not self._pace.is_open:
            handle.pause()
            self._pace.wait(self._stopped)
            handle.resume()
            self._begin_again()
        if self._stopped():
            raise OverError
        for alert in self._session.alerts(_TICK_S):
            self._note(alert)
        status = handle.status()
        checking = status.state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data)
        n_payload = status.total_payload_download + status.total_payload_upload
        if checking or is_idle or status.is_finished or n_payload >= self._n_payload + _BLOCK_BYTES:
            self._n_payload = n_payload
            self._begin_again()
        elif time.monotonic() > self._deadline:
            tried = [f"{status.num_peers} of {status.list_peers} known peers connected", *self._asked]
            why = f"nothing came in {self._patience_s:g} s ({', '.join(tried)})"
            raise SourceError(self._what, "; ".join([why, *self._troubles]))
        return status

    def flush(self, handle: lt.torrent_handle) -> None:
        """What libtorrent has is in the files when this returns. Raises DiskFullError, StorageError."""
        import libtorrent as lt

        handle.flush_cache()
        deadline = time.monotonic() + _FLUSH_S
        is_flushed = False
        while not is_flushed:
            for alert in self._session.alerts(_TICK_S):
                is_flushed |= isinstance(alert, lt.cache_flushed_alert)
                self._note(alert)
            if time.monotonic() > deadline:
                raise StorageError(f"{self._what}: was not written in {_FLUSH_S:g} s")

    def _begin_again(self) -> None:
        self._deadline = time.monotonic() + self._patience_s

    @property
    def _patience_s(self) -> float:
        return min(self._timeout_s, _AFTER_A_LIE_S) if self.banned else self._timeout_s

    def _note(self, alert: lt.alert) -> None:
        import libtorrent as lt

        if isinstance(alert, lt.hash_failed_alert):
            self.failed.add(alert.piece_index)
        if isinstance(alert, lt.peer_ban_alert) and (host := alert.endpoint[0]) not in self.banned:
            self.banned.add(host)
            self._deadline = min(self._deadline, time.monotonic() + self._patience_s)
            self._say(f"{self._what}: wrong bytes, and peer {host} had a part in them; it is left")
        if isinstance(alert, lt.file_error_alert):
            why = f"{shown(alert.filename())}: {shown(alert.error.message())}"
            raise DiskFullError(why) if alert.error.value() in (errno.ENOSPC, errno.EDQUOT) else StorageError(why)
        telling = (lt.tracker_error_alert, lt.hash_failed_alert, lt.peer_ban_alert, lt.peer_error_alert)
        if isinstance(alert, telling) and len(self._troubles) < _MOST_TROUBLES:
            self._troubles[shown(alert.message())] = None
