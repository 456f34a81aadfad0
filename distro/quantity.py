"""Quantities as people type them: `8GB`, `20MB/s`, `500k`."""

from __future__ import annotations

import re

_BYTES = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([kMGT]?)(i?)B?(/s)?", re.ASCII | re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Bytes of `8GB` (powers of ten, as disks and hubs count) or `8GiB` (powers of two). Raises ValueError."""
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[4]:
        raise ValueError("allowed a size such as 8GB, 500MB or 7.5GiB")
    return _value(match)


def parse_rate(text: str) -> int:
    """Bytes per second of `20MB/s`, `500k`. Raises ValueError."""
    match = _BYTES.fullmatch(text.strip())
    rate = _value(match) if match else 0
    if not 0 < rate < 2**31:
        raise ValueError("allowed a rate such as 500kB/s or 20MB/s, below 2147 MB/s")
    return rate


def _value(match: re.Match[str]) -> int:
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2].lower()])
