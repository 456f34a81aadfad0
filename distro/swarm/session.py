"""The one place that opens a libtorrent session, with settings that keep to what was asked for.

Nothing is announced unless asked: no DHT, no local discovery, no port mapping, no STUN server. TCP only, because
libtorrent's uTP is some thirty times slower where peers are near. Trackers and web seeds are subject to libtorrent's
own rules against being sent to inner addresses, and peers on loopback or link-local addresses, which strangers may
name, are not dialled unless the user named one or the session itself is local.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import CannotCreateError, UsageError
from distro.swarm.binding import require_libtorrent

if TYPE_CHECKING:
    import libtorrent as lt

_DHT_ROUTERS = "dht.libtorrent.org:25401,router.bittorrent.com:6881,dht.transmissionbt.com:6881"
_ANYWHERE = "0.0.0.0"  # noqa: S104  peers come from everywhere; a session that is local is asked for by its interface
_LOCAL_RANGES = (
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("::1", "::1"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
)
_PATIENCE_S = 10.0
_CLOSE_S = 1.0


class Session:
    """An open session. host: the address it listens on. port: the port it got."""

    def __init__(self, session: lt.session, host: str, closed: Sequence[tuple[str, str]]) -> None:
        self._session, self.host, self._closed = session, host, closed
        self.port = 0
        self.shun(())

    def await_listening(self) -> None:
        """Until the port is known. Raises CannotCreateError if no socket comes up."""
        import libtorrent as lt

        deadline = time.monotonic() + _PATIENCE_S
        while not (port := self._session.listen_port()):
            failures = [alert for alert in self.alerts(0.1) if isinstance(alert, lt.listen_failed_alert)]
            if failures or time.monotonic() > deadline:
                why = failures[0].error.message() if failures else f"no answer in {_PATIENCE_S:.0f} s"
                raise CannotCreateError(f"{self.host}: cannot listen there: {why}")
        self.port = port

    @property
    def address(self) -> str:
        """`host:port` where peers find it; if it listens everywhere, by this machine's address towards the world."""
        host = _outward_address() if ipaddress.ip_address(self.host).is_unspecified else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def add(self, params: lt.add_torrent_params) -> lt.torrent_handle:
        """Start a torrent. It is ours to steer: libtorrent's queue never pauses it.

        Raises CannotCreateError where libtorrent refuses it, such as one that is there already.
        """
        import libtorrent as lt

        kept = params.flags & ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags = kept | lt.torrent_flags.duplicate_is_error
        try:
            return self._session.add_torrent(params)
        except RuntimeError as error:
            raise CannotCreateError(f"torrent {shown(params.name)}: {error}") from error

    def remove(self, handle: lt.torrent_handle) -> bool:
        """Stop a torrent: whether its files are flushed and closed, and nothing more is written, when this returns.

        Where that takes too long only `close` makes sure of it.
        """
        import libtorrent as lt

        if not handle.is_valid():
            return True
        handle.pause()
        list(self.alerts(0))
        is_flushed = True
        if handle.status().has_metadata:  # else there is nothing to flush, and no word of it
            handle.flush_cache()
            is_flushed = self._await(lt.cache_flushed_alert)
        self._session.remove_torrent(handle)
        return self._await(lt.torrent_removed_alert) and is_flushed

    def shun(self, hosts: Collection[str]) -> None:
        """Neither dial these addresses nor answer them, until told otherwise."""
        import libtorrent as lt

        closed = lt.ip_filter()
        for first, last in (*self._closed, *((host, host) for host in hosts)):
            closed.add_rule(first, last, 1)
        self._session.set_ip_filter(closed)

    def alerts(self, wait_s: float) -> Iterator[lt.alert]:
        """What happened, after at most so many seconds of nothing."""
        self._session.wait_for_alert(int(wait_s * 1000))
        yield from self._session.pop_alerts()

    def close(self) -> None:
        """Stop everything; what was announced is taken back within `_CLOSE_S`."""
        self._session.pause()
        for handle in self._session.get_torrents():
            self._session.remove_torrent(handle)
        del self._session  # joins libtorrent's threads

    def _await(self, kind: type[lt.alert]) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if any(isinstance(alert, kind) for alert in list(self.alerts(0.1))):
                return True
        return False


@contextmanager
def open_session(
    *,
    interface: str = _ANYWHERE,
    port: int = 0,
    dht: bool = False,
    peers: Sequence[tuple[str, int]] = (),
    local: bool = False,
) -> Iterator[Session]:
    """A session that listens on a port (0: any free one) of an interface's address.

    peers: those that the user named. local: loopback addresses are meant, such as a tracker of this machine.
    Raises UsageError without libtorrent, CannotCreateError where nothing can listen there.
    """
    require_libtorrent()
    import libtorrent as lt

    try:
        ipaddress.ip_address(interface)
    except ValueError as error:
        raise UsageError(f"--interface: found {shown(interface)}, allowed an IP address of this machine") from error
    settings = _settings(interface, port, dht=dht)
    # A stranger could send us to a mail server's port; whom the user names may have any.
    settings["no_connect_privileged_ports"] = all(port >= 1024 for _, port in peers)
    is_local = local or _is_local(interface) or any(_is_local(host) for host, _ in peers)
    session = Session(lt.session(settings), interface, () if is_local else _LOCAL_RANGES)
    try:
        session.await_listening()
        yield session
    finally:
        session.close()


def _settings(interface: str, port: int, *, dht: bool) -> lt.settings_pack:
    import libtorrent as lt

    seen = lt.alert_category
    return {
        "user_agent": "distro",
        "listen_interfaces": f"[{interface}]:{port}" if ":" in interface else f"{interface}:{port}",
        "max_retry_port_bind": 0,  # the port that was asked for, or none
        "listen_system_port_fallback": False,
        "enable_dht": dht,
        "dht_bootstrap_nodes": _DHT_ROUTERS if dht else "",
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "webtorrent_stun_server": "",
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "ssrf_mitigation": True,
        "validate_https_trackers": True,
        "allow_idna": False,
        # Several machines may share one address, behind a router or in a test.
        "allow_multiple_connections_per_ip": True,
        # Otherwise a peer is dropped while a magnet's files are not chosen yet, and comes back only after a minute.
        "close_redundant_connections": False,
        "min_reconnect_time": 5,
        "tick_interval": 100,  # ms; a peer is dialled at the second tick, for each file anew
        "max_metadata_size": 10_000_000,
        "stop_tracker_timeout": int(_CLOSE_S),
        "active_downloads": -1,
        "active_seeds": -1,
        "active_limit": -1,
        "alert_mask": seen.error | seen.status | seen.storage | seen.peer | seen.tracker | seen.file_progress,
        "alert_queue_size": 10_000,
    }


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_link_local


def _outward_address() -> str:
    """The address that packets to the world would leave from; nothing is sent. Loopback where there is no way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: an address that nobody has
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
