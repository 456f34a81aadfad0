"""Runs a type's kernels: as machine code where that is possible, with numpy where it is not. The bytes are the same."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from converters import dtypes
from converters.quants.base import Blocks, KernelModule, Weights
from converters.quants.importance import Importance
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.machine_code import MachineCode
from converters.quants.numpy_machine import NumpyBlock, NumpyMachine
from converters.quants.vector import Real, Reals

if TYPE_CHECKING:
    from converters.quants.llvm import Width
    from converters.quants.processor import LoadedKernel

QUANTIZE, QUANTIZE_WITH_IMPORTANCE, DEQUANTIZE = "quantize", "quantize with importance", "dequantize"

# Searches in which each step waits for the one before it: two of AVX2's vectors side by side are a fifth faster there.
_WAITING = frozenset({dtypes.Q2_K, dtypes.Q4_K, dtypes.Q5_K, dtypes.IQ4_NL, dtypes.IQ4_XS})
_WAITING_WITH_IMPORTANCE = _WAITING | {dtypes.Q4_1, dtypes.Q5_1}

_NUMPY_LANES = 2048  # blocks at a time; so many numbers for each value fit the processor's cache
_NUMPY_WEIGHTS = 65536  # and at least so many weights, for blocks that are small


class KernelQuant:
    """A `Quant` out of a module's kernels. with_llvm=False keeps it on numpy."""

    def __init__(self, module: KernelModule, *, limit: float = np.inf, with_llvm: bool = True) -> None:
        self.DTYPE = module.DTYPE
        self.LIMIT = limit
        self._module = module
        self._with_llvm = with_llvm
        self.codes = {
            work: MachineCode(f"{self.DTYPE} {work}", functools.partial(self.code, work), n_lanes(module, work))
            for work in (QUANTIZE, QUANTIZE_WITH_IMPORTANCE, DEQUANTIZE)
        }

    def quantize_blocks(self, weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
        out = np.empty((len(weights), self.DTYPE.block_bytes), np.uint8)
        self.quantize_into(out, weights, importance)
        return out

    def dequantize_blocks(self, blocks: Blocks) -> Weights:
        out = np.empty((len(blocks), self.DTYPE.block_size), np.float32)
        self.dequantize_into(out, blocks)
        return out

    def quantize_into(self, out: Blocks, weights: Weights, importance: ImportanceMatrix | None = None) -> None:
        kernel = self._kernel(QUANTIZE if importance is None else QUANTIZE_WITH_IMPORTANCE)
        if kernel is None:
            self._quantize_with_numpy(out, weights, importance)
        elif importance is None:
            _run(kernel, weights, out)
        else:
            _run_weighted(kernel, weights, out, importance)

    def dequantize_into(self, out: Weights, blocks: Blocks) -> None:
        kernel = self._kernel(DEQUANTIZE)
        if kernel is None:
            self._dequantize_with_numpy(out, blocks)
        else:
            _run(kernel, blocks, out)

    def code(self, work: str, width: Width) -> str:
        """One of its kernels, written down for LLVM."""
        from converters.quants import llvm_tile

        sizes = self.DTYPE.block_size, self.DTYPE.block_bytes
        if work == DEQUANTIZE:
            return llvm_tile.write_dequantizer(self._module.dequantize, *sizes, width)
        weighted = work == QUANTIZE_WITH_IMPORTANCE
        return llvm_tile.write_quantizer(self._module.quantize, *sizes, width, weighted=weighted)

    def _kernel(self, work: str) -> LoadedKernel | None:
        return self.codes[work].get() if self._with_llvm else None

    def _quantize_with_numpy(self, out: Blocks, weights: Weights, matrix: ImportanceMatrix | None) -> None:
        for start, stop in self._numpy_tiles(len(weights)):
            machine = NumpyMachine(stop - start)
            importance = None
            if matrix is not None:
                columns = np.ascontiguousarray(matrix.of_blocks(start, stop, self.DTYPE.block_size).T)
                row_mean_square = Real(machine, matrix.row_mean_squares[start:stop])
                importance = Importance(Reals(machine, columns), row_mean_square)
            x = Reals(machine, np.ascontiguousarray(weights[start:stop].T))
            self._module.quantize(machine, x, NumpyBlock(machine, out[start:stop]), importance)

    def _dequantize_with_numpy(self, out: Weights, blocks: Blocks) -> None:
        for start, stop in self._numpy_tiles(len(blocks)):
            machine = NumpyMachine(stop - start)
            x = machine.reals(self.DTYPE.block_size)
            self._module.dequantize(machine, NumpyBlock(machine, blocks[start:stop]), x)
            out[start:stop] = x.memory.T

    def _numpy_tiles(self, n_blocks: int) -> list[tuple[int, int]]:
        step = max(_NUMPY_LANES, _NUMPY_WEIGHTS // self.DTYPE.block_size)
        return [(start, min(start + step, n_blocks)) for start in range(0, n_blocks, step)]


def n_lanes(module: KernelModule, work: str) -> int:
    """How many a kernel has at least. A plain number is a block, and not worth a round of its own."""
    if module.DTYPE.is_plain:
        return 32
    waiting = {QUANTIZE: _WAITING, QUANTIZE_WITH_IMPORTANCE: _WAITING_WITH_IMPORTANCE}
    return 16 if module.DTYPE in waiting.get(work, ()) else 0


def _run(kernel: LoadedKernel, source: Blocks | Weights, target: Blocks | Weights) -> None:
    """Whole tiles where they lie; what remains is filled up with zeros first."""
    n_tiles, rest = divmod(len(source), kernel.n_lanes)
    kernel(source.ctypes.data, target.ctypes.data, n_tiles)
    if rest:
        last_source, last_target = filled_up(source, rest, kernel.n_lanes), _room(target, kernel.n_lanes)
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
        last_weights, last_out = filled_up(weights, rest, n_lanes), _room(out, n_lanes)
        blocks = importance.of_blocks(n_tiles * n_lanes, len(weights), block_size)
        last_columns, last_mean_squares = filled_up(blocks, rest, n_lanes), filled_up(mean_squares, rest, n_lanes)
        addresses = last_columns.ctypes.data, n_lanes, last_mean_squares.ctypes.data
        kernel(last_weights.ctypes.data, last_out.ctypes.data, 1, *addresses)
        out[-rest:] = last_out[:rest]


def filled_up(array: npt.NDArray[Any], n_last: int, n: int) -> npt.NDArray[Any]:
    """Its n_last last elements, and zeros up to n."""
    filled = np.zeros((n, *array.shape[1:]), array.dtype)
    filled[:n_last] = array[-n_last:]
    return filled


def _room(array: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    return np.empty((n, *array.shape[1:]), array.dtype)
