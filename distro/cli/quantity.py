"""Quantities that were given to an option: what is wrong with one is said with the option's name."""

from __future__ import annotations

from converters.errors import shown
from distro import quantity
from distro.errors import UsageError


def parse_bytes(text: str, option: str) -> int:
    """Bytes of `8GB` (powers of ten, as disks and hubs count) or `8GiB` (powers of two). Raises UsageError."""
    try:
        return quantity.parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: found {shown(text)}, {error}") from error


def parse_rate(text: str, option: str = "--limit") -> int:
    """Bytes per second of `20MB/s`, `500k`; 0 for nothing said. Raises UsageError."""
    if not text:
        return 0
    try:
        return quantity.parse_rate(text)
    except ValueError as error:
        raise UsageError(f"{option}: found {shown(text)}, {error}") from error
