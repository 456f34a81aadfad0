"""libtorrent, the one dependency that this package has and that a machine may lack."""

from __future__ import annotations

import re

from distro.errors import UsageError


def require_libtorrent() -> None:
    """Raise UsageError, with what to do, where libtorrent cannot be imported."""
    try:
        import libtorrent  # noqa: F401
    except ImportError as error:
        why = f"BitTorrent needs the package libtorrent, which could not be loaded ({error}); all other sources work"
        raise UsageError(why) from error


def reason(error: RuntimeError) -> str:
    """libtorrent's words without its number: `invalid length of torrent [libtorrent:9]`."""
    return re.sub(r" \[\w+:\d+\]$", "", str(error))
