"""Runs kernels: on machine code where that is possible, on numpy where it is not. The bytes are the same.

Machine code is not possible without llvmlite, on a processor that it was not made for, or where the system forbids
memory that is written and then executed.
"""

from __future__ import annotations

import functools
import mmap
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import platformdirs

from converters.dtypes import DType
from converters.quants.base import Blocks, Weights
from converters.quants.numpy_machine import NumpyBlock, NumpyMachine
from converters.quants.object_cache import ObjectCache
from converters.quants.vector import Block, Machine, Reals

if TYPE_CHECKING:
    from converters.quants.llvm import LoadedKernel, Target

_NUMPY_LANES = 2048  # blocks at a time; so many numbers for each value fit the processor's cache

_compiling = threading.Lock()


class KernelModule(Protocol):
    """A module that describes a type of blocks by two kernels."""

    @property
    def DTYPE(self) -> DType: ...
    @property
    def quantize(self) -> Callable[[Machine, Reals, Block], None]: ...
    @property
    def dequantize(self) -> Callable[[Machine, Block, Reals], None]: ...


class KernelQuant:
    """A `Quant` out of a module's kernels. with_llvm=False keeps it on numpy."""

    LIMIT = np.inf

    def __init__(self, module: KernelModule, *, with_llvm: bool = True) -> None:
        self.DTYPE = module.DTYPE
        self._module = module
        self._with_llvm = with_llvm
        self._loaded: dict[str, LoadedKernel | None] = {}

    def quantize_blocks(self, weights: Weights) -> Blocks:
        out = np.empty((len(weights), self.DTYPE.block_bytes), np.uint8)
        self.quantize_into(out, weights)
        return out

    def dequantize_blocks(self, blocks: Blocks) -> Weights:
        out = np.empty((len(blocks), self.DTYPE.block_size), np.float32)
        self.dequantize_into(out, blocks)
        return out

    def quantize_into(self, out: Blocks, weights: Weights) -> None:
        """`quantize_blocks` into memory that is there already, which may save as much time as the work takes."""
        kernel = self._kernel("quantize")
        if kernel:
            _run(kernel, weights, out)
        for start in range(0, 0 if kernel else len(weights), _NUMPY_LANES):
            part = weights[start : start + _NUMPY_LANES]
            machine = NumpyMachine(len(part))
            x = Reals(machine, np.ascontiguousarray(part.T))
            self._module.quantize(machine, x, NumpyBlock(machine, out[start : start + len(part)]))

    def dequantize_into(self, out: Weights, blocks: Blocks) -> None:
        """`dequantize_blocks` into memory that is there already."""
        kernel = self._kernel("dequantize")
        if kernel:
            _run(kernel, blocks, out)
        for start in range(0, 0 if kernel else len(blocks), _NUMPY_LANES):
            part = blocks[start : start + _NUMPY_LANES]
            machine = NumpyMachine(len(part))
            x = machine.reals(self.DTYPE.block_size)
            self._module.dequantize(machine, NumpyBlock(machine, part), x)
            out[start : start + len(part)] = x.memory.T

    def _kernel(self, direction: str) -> LoadedKernel | None:
        """Compiled when it is first asked for; None where only numpy will do."""
        if direction not in self._loaded:
            with _compiling:
                if direction not in self._loaded:
                    self._loaded[direction] = self._make(direction)
        return self._loaded[direction]

    def _make(self, direction: str) -> LoadedKernel | None:
        target = _target() if self._with_llvm else None
        if target is None:
            return None
        from converters.quants import llvm

        sizes = self.DTYPE.block_size, self.DTYPE.block_bytes
        if direction == "quantize":
            code = llvm.write_quantizer(self._module.quantize, *sizes)
        else:
            code = llvm.write_dequantizer(self._module.dequantize, *sizes)
        cache, key = _cache(), target.key(code)
        compiled = cache.get(key)
        if compiled is None:
            compiled = target.compile(code)
            cache.put(key, compiled)
        return target.load(compiled)


def _run(kernel: LoadedKernel, source: Blocks | Weights, target: Blocks | Weights) -> None:
    """Whole tiles where they lie; what remains is filled up with zeros first."""
    lanes = kernel.n_lanes
    n_tiles, rest = divmod(len(source), lanes)
    kernel(source.ctypes.data, target.ctypes.data, n_tiles)
    if rest:
        last_source = np.zeros((lanes, source.shape[1]), source.dtype)
        last_target = np.empty((lanes, target.shape[1]), target.dtype)
        last_source[:rest] = source[len(source) - rest :]
        kernel(last_source.ctypes.data, last_target.ctypes.data, 1)
        target[len(target) - rest :] = last_target[:rest]


@functools.cache
def _target() -> Target | None:
    try:
        from converters.quants import llvm
    except ImportError:
        return None
    target = llvm.host()
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
