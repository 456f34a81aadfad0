"""Runs kernels: on machine code where that is possible, on numpy where it is not. The bytes are the same.

Machine code is not possible without llvmlite, on a processor that it was not made for, or where the system forbids
memory that is written and then executed.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import platformdirs

from converters.quants.base import Blocks, ImportanceMatrix, KernelModule, Weights
from converters.quants.importance import Importance
from converters.quants.numpy_machine import NumpyBlock, NumpyMachine
from converters.quants.object_cache import ObjectCache
from converters.quants.vector import Real, Reals

if TYPE_CHECKING:
    from converters.quants.llvm import LoadedKernel, Target

_NUMPY_LANES = 2048  # blocks at a time; so many numbers for each value fit the processor's cache

_compiling = threading.Lock()


class KernelQuant:
    """A `Quant` out of a module's kernels. with_llvm=False keeps it on numpy."""

    LIMIT = np.inf

    def __init__(self, module: KernelModule, *, with_llvm: bool = True) -> None:
        self.DTYPE = module.DTYPE
        self._module = module
        self._with_llvm = with_llvm
        self._loaded: dict[str, LoadedKernel | None] = {}

    def quantize_blocks(self, weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
        out = np.empty((len(weights), self.DTYPE.block_bytes), np.uint8)
        self.quantize_into(out, weights, importance)
        return out

    def dequantize_blocks(self, blocks: Blocks) -> Weights:
        out = np.empty((len(blocks), self.DTYPE.block_size), np.float32)
        self.dequantize_into(out, blocks)
        return out

    def quantize_into(self, out: Blocks, weights: Weights, importance: ImportanceMatrix | None = None) -> None:
        """`quantize_blocks` into memory that is there already, which may save as much time as the work takes."""
        kernel = self._kernel("quantize" if importance is None else "quantize with importance")
        if kernel is None:
            self._quantize_with_numpy(out, weights, importance)
        elif importance is None:
            _run(kernel, weights, out)
        else:
            _run_weighted(kernel, weights, out, importance)

    def dequantize_into(self, out: Weights, blocks: Blocks) -> None:
        """`dequantize_blocks` into memory that is there already."""
        kernel = self._kernel("dequantize")
        if kernel is None:
            self._dequantize_with_numpy(out, blocks)
        else:
            _run(kernel, blocks, out)

    def _quantize_with_numpy(self, out: Blocks, weights: Weights, matrix: ImportanceMatrix | None) -> None:
        for start in range(0, len(weights), _NUMPY_LANES):
            part = weights[start : start + _NUMPY_LANES]
            stop = start + len(part)
            machine = NumpyMachine(len(part))
            importance = None
            if matrix is not None:
                columns = np.ascontiguousarray(matrix.of_blocks(start, stop, self.DTYPE.block_size).T)
                row_mean_square = Real(machine, matrix.row_mean_squares[start:stop])
                importance = Importance(Reals(machine, columns), row_mean_square)
            x = Reals(machine, np.ascontiguousarray(part.T))
            self._module.quantize(machine, x, NumpyBlock(machine, out[start:stop]), importance)

    def _dequantize_with_numpy(self, out: Weights, blocks: Blocks) -> None:
        for start in range(0, len(blocks), _NUMPY_LANES):
            part = blocks[start : start + _NUMPY_LANES]
            machine = NumpyMachine(len(part))
            x = machine.reals(self.DTYPE.block_size)
            self._module.dequantize(machine, NumpyBlock(machine, part), x)
            out[start : start + len(part)] = x.memory.T

    def _kernel(self, work: str) -> LoadedKernel | None:
        """Compiled when it is first asked for; None where only numpy will do."""
        if work not in self._loaded:
            with _compiling:
                if work not in self._loaded:
                    self._loaded[work] = self._make(work)
        return self._loaded[work]

    def _make(self, work: str) -> LoadedKernel | None:
        target = _target() if self._with_llvm else None
        if target is None:
            return None
        code = functools.partial(self._code, work)
        cache, key = _cache(), target.key(f"{self.DTYPE} {work} {_sources() or code()}")
        compiled = cache.get(key)
        if compiled is None:
            compiled = target.compile(code())
            cache.put(key, compiled)
        return target.load(compiled)

    def _code(self, work: str) -> str:
        from converters.quants import llvm

        sizes = self.DTYPE.block_size, self.DTYPE.block_bytes
        if work == "dequantize":
            return llvm.write_dequantizer(self._module.dequantize, *sizes)
        return llvm.write_quantizer(self._module.quantize, *sizes, weighted=work != "quantize")


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


def _run(kernel: LoadedKernel, source: Blocks | Weights, target: Blocks | Weights) -> None:
    """Whole tiles where they lie; what remains is filled up with zeros first."""
    n_tiles, rest = divmod(len(source), kernel.n_lanes)
    kernel(source.ctypes.data, target.ctypes.data, n_tiles)
    if rest:
        last_source, last_target = _filled_up(source, rest, kernel.n_lanes), _room(target, kernel.n_lanes)
        kernel(last_source.ctypes.data, last_target.ctypes.data, 1)
        target[-rest:] = last_target[:rest]


def _run_weighted(kernel: LoadedKernel, weights: Weights, out: Blocks, importance: ImportanceMatrix) -> None:
    """As `_run`; the last tile has columns of its own, as if it were a row."""
    n_lanes, block_size = kernel.n_lanes, weights.shape[1]
    n_tiles, rest = divmod(len(weights), n_lanes)
    columns, mean_squares = importance.columns, importance.row_mean_squares
    addresses = columns.ctypes.data, len(columns) // block_size, mean_squares.ctypes.data
    kernel(weights.ctypes.data, out.ctypes.data, n_tiles, *addresses)
    if rest:
        last_weights, last_out = _filled_up(weights, rest, n_lanes), _room(out, n_lanes)
        blocks = importance.of_blocks(n_tiles * n_lanes, len(weights), block_size)
        last_columns, last_mean_squares = _filled_up(blocks, rest, n_lanes), _filled_up(mean_squares, rest, n_lanes)
        addresses = last_columns.ctypes.data, n_lanes, last_mean_squares.ctypes.data
        kernel(last_weights.ctypes.data, last_out.ctypes.data, 1, *addresses)
        out[-rest:] = last_out[:rest]


def _filled_up(array: npt.NDArray[Any], n_last: int, n: int) -> npt.NDArray[Any]:
    """Its n_last last elements, and zeros up to n."""
    filled = np.zeros((n, *array.shape[1:]), array.dtype)
    filled[:n_last] = array[-n_last:]
    return filled


def _room(array: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    return np.empty((n, *array.shape[1:]), array.dtype)


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
