"""Where an address leads: whom a token is for, where a redirect may go, and what of an address may be shown."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import ProtocolError

if TYPE_CHECKING:
    import httpx2

MOST_REDIRECTS = 5
_PORTS = range(1, 2**16)
_LONGEST_LABEL = 63  # bytes of a part of a host's name, RFC 1035


def origin_of(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def plain(url: httpx2.URL) -> str:
    """An address as it may be shown: no user, no query, where secrets are."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def judge_redirect(name: str, first: httpx2.URL, here: httpx2.URL, there: httpx2.URL) -> None:
    """Raise ProtocolError for an address that no source needs to lead to. first: the one that we were given."""
    is_address = there.host and there.scheme in ("http", "https")
    labels = there.raw_host.rstrip(b".").split(b".")
    if (
        not is_address
        or not all(0 < len(label) <= _LONGEST_LABEL for label in labels)
        or (there.port is not None and there.port not in _PORTS)
    ):
        raise ProtocolError(name, f"redirects to {shown(plain(there))}, which is no http or https address")
    if here.scheme == "https" and there.scheme == "http":
        raise ProtocolError(name, f"redirects from https to {shown(plain(there))}")
    if is_inside(there.host) and not is_inside(first.host):
        raise ProtocolError(name, f"redirects into our own network, to {shown(plain(there))}")


def is_inside(host: str) -> bool:
    """Whether an address is this machine's or of a private network; names other than localhost are not looked up."""
    try:
        return not ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_global
    except ValueError:
        return host.rstrip(".").lower().rpartition(".")[2] == "localhost"
