#!/usr/bin/env python3
"""How fast we quantize, beside ggml, and dequantize, beside gguf-py: same data, same number of threads, same process.

Both sides take turns, so that a noisy machine is noisy for both; each thread stays on one processor; a figure is the
median of its rounds, a ratio the median of the ratios of the rounds. Before anything is timed, the bytes are compared.

    scripts/bench_quants [--types Q4_K,Q6_K] [--threads 2] [--rounds 7] [--weights 4194304] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gguf
import numpy as np

from converters import dtypes, quants
from converters.quants.base import ImportanceMatrix, KernelModule
from converters.quants.kernel import KernelQuant
from tests.fakes import ggml

Work = Callable[[slice], object]  # on some of the rows
ROW = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=",".join(module.DTYPE.name for module in quants.KERNELS))
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", type=int, default=1 << 22)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    n_rows = arguments.weights // ROW
    weights = (np.random.default_rng(0).standard_normal((n_rows, ROW)) * 0.02).astype(np.float32)
    columns = np.random.default_rng(1).random(ROW).astype(np.float32)
    heads = (
        "type",
        "cold s",
        "warm s",
        "Mw/s",
        "ggml",
        "ratio",
        "imatrix",
        "ggml",
        "ratio",
        "deq.",
        "gguf-py",
        "ratio",
    )
    print(f"{arguments.threads} threads, {weights.size} weights, {arguments.rounds} rounds")
    print(("{:8}" + "{:>9}" * 11).format(*heads))
    results = []
    for name in arguments.types.split(","):
        result = measure(dtypes.BY_NAME[name], weights, columns, arguments.threads, arguments.rounds)
        results.append(result)
        name, cold_s, warm_s, *figures = result.values()
        print(f"{name:8}{cold_s:9.3f}{warm_s:9.3f}" + "".join(f"{figure:9.1f}" for figure in figures), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "types": results}, indent=2) + "\n")


def measure(
    dtype: dtypes.DType, weights: np.ndarray, columns: np.ndarray, n_threads: int, n_rounds: int
) -> dict[str, str | float]:
    module = next(module for module in quants.KERNELS if dtype == module.DTYPE)
    quant = KernelQuant(module)
    row_bytes = dtype.row_bytes(ROW)
    ours, theirs = (np.zeros((len(weights), row_bytes), np.uint8) for _ in range(2))
    decoded = np.zeros_like(weights)

    def quantize(rows: slice) -> None:
        part, out = weights[rows], ours[rows]
        quant.quantize_into(out.reshape(-1, dtype.block_bytes), part.reshape(-1, dtype.block_size))

    def quantize_weighted(rows: slice) -> None:
        part, out = weights[rows], ours[rows]
        matrix = ImportanceMatrix.for_rows(columns, part, dtype)
        quant.quantize_into(out.reshape(-1, dtype.block_bytes), part.reshape(-1, dtype.block_size), matrix)

    def dequantize(rows: slice) -> None:
        part, out = ours[rows], decoded[rows]
        quant.dequantize_into(out.reshape(-1, dtype.block_size), part.reshape(-1, dtype.block_bytes))

    def ggml_quantize(rows: slice) -> None:
        ggml.quantize_into(theirs[rows], weights[rows], dtype)

    def ggml_quantize_weighted(rows: slice) -> None:
        ggml.quantize_into(theirs[rows], weights[rows], dtype, columns)

    def gguf_dequantize(rows: slice) -> None:
        gguf.dequantize(ours[rows], gguf.GGMLQuantizationType(dtype.ggml_id))

    cold = compile_time(module)
    warm = seconds(lambda: quantize(slice(0, 1)))
    everything = slice(0, len(weights))
    for work, judge in ((quantize_weighted, ggml_quantize_weighted), (quantize, ggml_quantize)):
        work(everything)
        judge(everything)
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"{dtype}: other bytes than ggml's")
    dequantize(slice(0, 1))

    pairs = [(quantize, ggml_quantize), (quantize_weighted, ggml_quantize_weighted), (dequantize, gguf_dequantize)]
    figures: list[float] = []
    try:
        gguf_dequantize(slice(0, 1))
    except (NotImplementedError, ValueError):  # gguf-py does not know the newest types
        pairs.pop()
    for pair in pairs:
        times = [[timed(work, len(weights), n_threads) for work in pair] for _ in range(n_rounds)]
        rates = [weights.size / statistics.median(column) / 1e6 for column in zip(*times, strict=True)]
        figures += [*rates, statistics.median(theirs_s / ours_s for ours_s, theirs_s in times)]
    keys = (
        *("quantize", "ggml", "quantize_ratio", "quantize_imatrix", "ggml_imatrix", "quantize_imatrix_ratio"),
        *("dequantize", "gguf_py", "dequantize_ratio"),
    )
    return {"type": dtype.name, "cold_s": cold, "warm_s": warm, **dict(zip(keys, figures, strict=False))}


def compile_time(module: KernelModule) -> float:
    """Writing the quantizer's code and compiling it, with no cache."""
    from converters.quants import llvm

    def work() -> None:
        code = llvm.write_quantizer(module.quantize, module.DTYPE.block_size, module.DTYPE.block_bytes, weighted=False)
        target = llvm.host()
        target.load(target.compile(code))

    return seconds(work)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Work, n_rows: int, n_threads: int) -> float:
    """Seconds for all rows, split among threads that each stay on a processor of their own."""
    processors = sorted(os.sched_getaffinity(0))
    ready, done = threading.Barrier(n_threads + 1), threading.Barrier(n_threads + 1)

    def run(i: int) -> None:
        os.sched_setaffinity(0, {processors[i % len(processors)]})
        rows = slice(n_rows * i // n_threads, n_rows * (i + 1) // n_threads)
        ready.wait()
        work(rows)
        done.wait()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    done.wait()
    elapsed = time.perf_counter() - start
    for thread in threads:
        thread.join()
    return elapsed


if __name__ == "__main__":
    main()
