"""Numbers in words, for people."""

from __future__ import annotations


def size(n_bytes: int | None) -> str:
    """Bytes in powers of ten, as disks and hubs count: `98.4 MB`."""
    if n_bytes is None:
        return "?"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
