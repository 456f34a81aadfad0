"""Addresses that torrents and magnet links bring along: trackers, web seeds, peers.

They come from strangers, who may want us to knock on doors of the machine's own network. Whoever is not public is left
out, and so is everybody beyond `MAX_ADDRESSES`; for each a line says why.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from converters.errors import shown
from distro.urls import judge_url

MAX_ADDRESSES = 64
_SCHEMES = ("http", "https", "udp")


def fit_urls(kind: str, urls: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those that may be asked, a line for each that may not); kind: for the lines, such as `tracker`."""
    fit, dropped = [], []
    for url in dict.fromkeys(urls):
        try:
            judge_url(url, _SCHEMES)
            fit.append(url)
        except ValueError as error:
            dropped.append(f"{kind} {shown(url)} dropped: {error}")
    if len(fit) > MAX_ADDRESSES:
        dropped.append(f"{len(fit) - MAX_ADDRESSES} of {len(fit)} {kind}s dropped: {MAX_ADDRESSES} are enough")
    if len(dropped) > MAX_ADDRESSES:
        dropped[MAX_ADDRESSES:] = [f"{len(dropped) - MAX_ADDRESSES} more dropped"]
    return tuple(fit[:MAX_ADDRESSES]), tuple(dropped)


def fit_peers(texts: Sequence[str]) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """(host and port of those that a stranger may send us to, a line for each that not): public addresses only."""
    fit, dropped = [], []
    for text in texts[:MAX_ADDRESSES]:
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


def parse_peer(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises ValueError with the reason."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not parts.port or parts.path or parts.username is not None:
        raise ValueError("a peer that is not HOST:PORT")
    return parts.hostname, parts.port
