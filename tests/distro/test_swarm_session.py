"""Sessions: quiet unless asked, closed when left."""

from __future__ import annotations

import socket
import time

import libtorrent as lt
import pytest

from distro.errors import CannotCreateError, UsageError
from distro.swarm.session import _settings, open_session


def test_a_session_listens_where_it_was_told_and_stops_at_once() -> None:
    with open_session(interface="127.0.0.1") as session:
        assert session.address == f"127.0.0.1:{session.port}"
        with socket.create_connection(("127.0.0.1", session.port), timeout=5):
            pass
        began = time.monotonic()

    assert time.monotonic() - began < 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", session.port), timeout=5)


def test_a_port_that_is_taken_is_no_other_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotCreateError, match="in use"), open_session(interface="127.0.0.1", port=port):
            pass


@pytest.mark.parametrize(
    ("interface", "error"), [("192.0.2.77", CannotCreateError), ("eth0", UsageError), ("", UsageError)]
)
def test_an_interface_that_is_not_ours_is_refused(interface: str, error: type[Exception]) -> None:
    with pytest.raises(error), open_session(interface=interface):
        pass


def test_nothing_is_announced_unless_asked() -> None:
    quiet = _settings("127.0.0.1", 0, dht=False)

    for switch in ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_utp"):
        assert quiet[switch] is False  # type: ignore[literal-required]
    for switch in ("ssrf_mitigation", "validate_https_trackers"):
        assert quiet[switch] is True  # type: ignore[literal-required]
    assert quiet["webtorrent_stun_server"] == quiet["dht_bootstrap_nodes"] == ""
    assert _settings("127.0.0.1", 0, dht=True)["enable_dht"] is True
    assert set(quiet) < set(lt.default_settings())  # libtorrent passes over a name that it does not know


def test_strangers_cannot_send_us_to_this_machine() -> None:
    def access(**options: object) -> list[int]:
        with open_session(**options) as session:  # type: ignore[arg-type]
            addresses = session._session.get_ip_filter()
            return [addresses.access(host) for host in ("127.0.0.1", "169.254.169.254", "::1", "fe80::1", "8.8.8.8")]

    assert access() == [1, 1, 1, 1, 0]
    assert access(peers=[("127.0.0.1", 6881)]) == [0, 0, 0, 0, 0]
    assert access(interface="127.0.0.1") == [0, 0, 0, 0, 0]


def test_shunning_holds_until_told_otherwise() -> None:
    with open_session() as session:
        session.shun(["8.8.8.8"])
        assert session._session.get_ip_filter().access("8.8.8.8") == 1
        session.shun([])
        assert session._session.get_ip_filter().access("8.8.8.8") == 0
        assert session._session.get_ip_filter().access("127.0.0.1") == 1
