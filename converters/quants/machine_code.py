"""A kernel's machine code, where this computer can run any: out of the cache, or compiled when it is first asked for.

It cannot without llvmlite, on a processor that LLVM's vectors do not suit, or where the system forbids memory that is
written and then executed.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from converters.quants.object_cache import ObjectCache

if TYPE_CHECKING:
    from converters.quants.llvm import Width
    from converters.quants.processor import LoadedKernel, Target

_compiling = threading.Lock()


@dataclass
class MachineCode:
    """name: which kernel it is. write: its code in LLVM's language. n_lanes: how many it has at least."""

    name: str
    write: Callable[[Width], str]
    n_lanes: int = 0
    _loaded: list[LoadedKernel | None] = field(default_factory=list)

    def get(self) -> LoadedKernel | None:
        """None where only numpy will do."""
        if not self._loaded:
            with _compiling:
                if not self._loaded:
                    target = _target()
                    self._loaded.append(None if target is None else self.load(target))
        return self._loaded[0]

    def load(self, target: Target) -> LoadedKernel:
        """Out of the cache, or compiled."""
        width = self._width(target)
        cache, key = _cache(), target.key(f"{self.name} {_sources() or self.write(width)}")
        compiled = cache.get(key)
        if compiled is None:
            compiled = self.compile(target)
            cache.put(key, compiled)
        return target.load(compiled, width.n_lanes)

    def compile(self, target: Target) -> bytes:
        return target.compile(self.write(self._width(target)))

    def _width(self, target: Target) -> Width:
        from converters.quants.llvm import Width

        return Width(max(self.n_lanes, target.n_native), target.n_native)


@functools.cache
def _sources() -> str | None:
    """SHA-256 of this package's text, which decides the code of every kernel; None where it cannot be read.

    Reading it takes two milliseconds, writing a kernel's code down a hundred.
    """
    package = Path(__file__).parent
    texts = [
        path.read_bytes() for path in sorted([*package.glob("*.py"), package.parent / "dtypes.py"]) if path.is_file()
    ]
    return hashlib.sha256(b"\0".join(texts)).hexdigest() if len(texts) > 1 else None


@functools.cache
def _target() -> Target | None:
    try:
        from converters.quants import processor
    except ImportError:
        return None
    target = processor.host()
    return target if target.can_run_kernels and may_execute_memory() else None


def may_execute_memory() -> bool:
    """Whether the system lets us run code that we wrote; hardened ones do not."""
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
            return True
    except (OSError, AttributeError):
        return False


@functools.cache
def _cache() -> ObjectCache:
    return ObjectCache(platformdirs.user_cache_path("weights-distro", appauthor=False) / "kernels")
