"""Addresses that manifests may name: public hosts by name, nothing that reaches into the machine or its network."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

LONGEST_URL = 2048  # characters

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PLAIN = re.compile(r"[!-~]+", re.ASCII)
# Top levels that mean this machine or this network (RFC 6761, 6762, 8375, ICANN's name collisions).
_PRIVATE = {"corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost", "onion", "private"}
_PRIVATE |= {"arpa", "invalid", "test"}


def judge_url(text: str, schemes: Collection[str] = ("https",)) -> None:
    """Raise ValueError, with the reason, unless a manifest may name this address.

    Neither user nor password, a host name of lower-case ASCII with a dot in it and no IP address in any writing, a port
    that is the web's (80, 443) or from 1024 on, no fragment, no path that climbs.
    """
    if len(text) > LONGEST_URL:
        raise ValueError(f"an address of {len(text)} characters, {LONGEST_URL} at most")
    if not _PLAIN.fullmatch(text) or "\\" in text:
        raise ValueError("a character that has no place in an address")
    parts = urlsplit(text)
    if parts.scheme not in schemes or not text.startswith(f"{parts.scheme}://"):
        raise ValueError(f"an address that does not begin with {' or '.join(f'{s}://' for s in schemes)}")
    if "@" in parts.netloc:
        raise ValueError("a user or a password in the address")
    host, colon, port = parts.netloc.partition(":")
    _judge_host(host)
    if colon and not (port.isdigit() and len(port) <= 5 and (port in ("80", "443") or 1024 <= int(port) < 65536)):
        raise ValueError("a port that is neither 80, 443 nor from 1024 on")
    if "#" in text:
        raise ValueError("a fragment in the address")
    if ".." in unquote(parts.path).split("/"):
        raise ValueError("an address that climbs with ..")


def _judge_host(host: str) -> None:
    labels = host.split(".")
    if len(host) > 253 or len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("a host that is not a public name in lower case")
    if any(label.startswith("xn--") for label in labels):
        raise ValueError("a host in punycode, which may look like another")
    # No top level of the internet has a digit; a last label with one is an IP address in one of its writings.
    if not labels[-1].isalpha() or labels[-1] in _PRIVATE:
        raise ValueError("a host that is an IP address or a private name")
