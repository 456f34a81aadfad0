"""How much memory this machine has, and what fits into it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Beside the weights: keys and values of a few thousand tokens, buffers, the program itself.
_BESIDE_BYTES = 500_000_000
_BESIDE_SHARE = 0.1

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def total_bytes() -> int | None:
    """Memory that this process may use: the machine's, or less where its control group says so. None if unknown."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such group, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def needed_bytes(size: int) -> int:
    """A rule of thumb: what running takes whose weights are `size` bytes on the disk."""
    return size + int(size * _BESIDE_SHARE) + _BESIDE_BYTES
