"""Magnet links: read as they are meant, refused or trimmed as they deserve."""

from __future__ import annotations

from pathlib import Path

import libtorrent as lt
import pytest

from distro.errors import MalformedManifestError
from distro.swarm.magnet import parse_magnet
from distro.swarm.make import make
from tests.fakes.torrents import write

V1, V2 = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a", "d8dd32ac93357c368556af3ac1d95c9d76bd0dff6fa9833ecdac3d53134efabb"


def test_a_magnet_is_read() -> None:
    magnet = parse_magnet(
        f"magnet:?xt=urn:btih:{V1.upper()}&xt=urn:btmh:1220{V2}&dn=a%20model"
        "&tr=udp%3A%2F%2Ftracker.example.com%3A6969&tr.1=http%3A%2F%2Fb.example.com%2Fannounce&x.pe=8.8.8.8:6881"
    )

    assert (magnet.infohash_v1, magnet.infohash_v2, magnet.label) == (V1, V2, "a model")
    assert magnet.trackers == ("udp://tracker.example.com:6969", "http://b.example.com/announce")
    assert magnet.peers == (("8.8.8.8", 6881),)
    assert magnet.dropped == ()


def test_base32_is_the_same_hash() -> None:
    assert parse_magnet("magnet:?xt=urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK").infohash_v1 == V1


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("magnet:?dn=x", "xt"),
        ("magnet:?xt=urn:sha1:" + V1, "xt"),
        ("magnet:x", "link"),
        ("http://x", "link"),
        ("magnet:?xt=urn:btih:" + V1[1:], "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "1" * 32, "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "8" * 32, "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "g" * 40, "xt urn:btih"),
        (f"magnet:?xt=urn:btih:{V1}&xt=urn:btih:{'a' * 40}", "xt urn:btih"),
        (f"magnet:?xt=urn:btmh:1320{V2}", "xt urn:btmh"),
        (f"magnet:?xt=urn:btmh:1220{V2[2:]}", "xt urn:btmh"),
        (f"magnet:?xt=urn:btih:{V1}&dn=" + "x" * 1_000_000, "length"),
    ],
)
def test_a_bad_magnet_is_refused(text: str, field: str) -> None:
    with pytest.raises(MalformedManifestError) as caught:
        parse_magnet(text)

    assert caught.value.field == field


def test_parameters_of_a_magnet_that_are_not_fit_are_dropped() -> None:
    magnet = parse_magnet(
        f"magnet:?xt=urn:btih:{V1}&dn=..%2Fx&tr=file:///etc/passwd&tr=http://127.0.0.1/announce"
        "&ws=http://localhost/&x.pe=127.0.0.1:22&x.pe=192.168.1.1:80&x.pe=x&so=0-99999999999999"
    )

    assert (magnet.trackers, magnet.web_seeds, magnet.peers) == ((), (), ())
    assert len(magnet.dropped) == 7


def test_our_magnet_names_our_torrent(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    magnet = parse_magnet(torrent.magnet("a & b"))

    assert magnet.names(torrent)
    assert not magnet.names(torrent.as_private())
    assert magnet.label == "a & b"
    assert str(lt.parse_magnet_uri(torrent.magnet()).info_hashes.v2) == torrent.infohash_v2
