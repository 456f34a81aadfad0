#!/usr/bin/env python3
"""How fast we quantize, beside ggml, and dequantize, beside gguf-py: same data, same number of threads, same process.

Both sides take turns, so that a noisy machine is noisy for both; each thread stays on one processor; a figure is the
median of its rounds, a ratio the median of the ratios of the rounds. Before anything is timed, the bytes are compared.
Of slow types fewer rows are taken, so that a round of ggml's takes about half a second.

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
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gguf
import numpy as np

from converters import dtypes, quants
from converters.dtypes import DType
from converters.quants import processor
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.kernel import DEQUANTIZE, QUANTIZE, QUANTIZE_WITH_IMPORTANCE, KernelQuant
from tests.fakes import ggml

Work = Callable[[slice], object]  # on some of the rows

ROW = 4096
ROUND_S = 0.5
TYPES = [dtype.name for dtype in quants.CODECS if quants.can_encode(dtype)]


@dataclass(frozen=True)
class Pair:
    """Ours beside theirs, in million weights a second."""

    ours: float
    theirs: float
    ratio: float


@dataclass(frozen=True)
class Result:
    """compile_s: of a kernel without a cache, load_s: with one. A work that ggml does not know, or that changes
    nothing, is left out.
    """

    type: str
    compile_s: dict[str, float]
    load_s: float | None
    speed: dict[str, Pair]

    def line(self) -> str:
        works = (QUANTIZE, QUANTIZE_WITH_IMPORTANCE, DEQUANTIZE)
        cells = [f"{self.compile_s[work]:9.3f}" if work in self.compile_s else f"{'-':>9}" for work in works]
        cells.append(f"{'-':>9}" if self.load_s is None else f"{self.load_s:9.4f}")
        for work in works:
            pair = self.speed.get(work)
            cells.append(f"{pair.ours:9.1f}{pair.theirs:9.1f}{pair.ratio:7.1f}" if pair else f"{'-':>25}")
        return f"{self.type:8}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", type=int, default=1 << 22)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    n_rows = arguments.weights // ROW
    weights = (np.random.default_rng(0).standard_normal((n_rows, ROW)) * 0.02).astype(np.float32)
    columns = np.random.default_rng(1).random(ROW).astype(np.float32)
    print(f"{arguments.threads} threads, at most {weights.size} weights, {arguments.rounds} rounds; Mw/s")
    works = ("quantize", "imatrix", "dequantize")
    heads = [f"{head:>9}" for head in ("compile s", "imatrix", "deq.", "load s")]
    for work, judge in zip(works, ("ggml", "ggml", "gguf-py"), strict=True):
        heads.append(f"{work:>9}" if len(work) < 9 else f" {work[:8]}")
        heads.append(f"{judge:>9}{'ratio':>7}")
    print(f"{'type':8}" + "".join(heads))
    results = []
    for name in arguments.types.split(","):
        results.append(measure(dtypes.BY_NAME[name], weights, columns, arguments.threads, arguments.rounds))
        print(results[-1].line(), flush=True)
    if arguments.json:
        content = {"threads": arguments.threads, "types": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def measure(dtype: DType, weights: np.ndarray, columns: np.ndarray, n_threads: int, n_rounds: int) -> Result:
    quant = quants.CODECS[dtype]
    ours, theirs = (np.zeros((len(weights), dtype.row_bytes(ROW)), np.uint8) for _ in range(2))
    decoded = np.zeros_like(weights)

    def quantize(rows: slice, *, weighted: bool = False) -> None:
        part, out = weights[rows], ours[rows].reshape(-1, dtype.block_bytes)
        matrix = ImportanceMatrix.for_rows(columns, part, dtype) if weighted else None
        quant.quantize_into(out, part.reshape(-1, dtype.block_size), matrix)

    def quantize_weighted(rows: slice) -> None:
        quantize(rows, weighted=True)

    def dequantize(rows: slice) -> None:
        quant.dequantize_into(decoded[rows].reshape(-1, dtype.block_size), ours[rows].reshape(-1, dtype.block_bytes))

    def ggml_quantize(rows: slice) -> None:
        ggml.quantize_into(theirs[rows], weights[rows], dtype)

    def ggml_quantize_weighted(rows: slice) -> None:
        ggml.quantize_into(theirs[rows], weights[rows], dtype, columns)

    def gguf_dequantize(rows: slice) -> None:
        gguf.dequantize(ours[rows], gguf.GGMLQuantizationType(dtype.ggml_id))

    pairs: dict[str, tuple[Work, Work]] = {}
    if not quants.needs_importance(dtype):
        pairs[QUANTIZE] = quantize, ggml_quantize
    if quants.uses_importance(dtype):
        pairs[QUANTIZE_WITH_IMPORTANCE] = quantize_weighted, ggml_quantize_weighted
    some = slice(0, min(64, len(weights)))
    for name, (work, judge) in pairs.items():
        work(some)
        judge(some)
        if not np.array_equal(ours[some], theirs[some]):
            raise SystemExit(f"{dtype}, {name}: other bytes than ggml's")
    if knows(dtype) and dtype != dtypes.F32:  # whose bytes are the numbers
        pairs[DEQUANTIZE] = dequantize, gguf_dequantize

    speed = {}
    for name, (work, judge) in pairs.items():
        work(some)
        n_rows = min(len(weights), max(16, int(64 * n_threads * ROUND_S / seconds(lambda judge=judge: judge(some)))))
        times = [[timed(each, n_rows, n_threads) for each in (work, judge)] for _ in range(n_rounds)]
        ours_s, theirs_s = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in times)
        speed[name] = Pair(n_rows * ROW / ours_s / 1e6, n_rows * ROW / theirs_s / 1e6, ratio)
    return Result(dtype.name, *compile_times(quant, pairs), speed)


def knows(dtype: DType) -> bool:
    """Whether gguf-py does; not the newest types."""
    try:
        gguf.dequantize(np.zeros((1, dtype.row_bytes(256)), np.uint8), gguf.GGMLQuantizationType(dtype.ggml_id))
    except (NotImplementedError, ValueError):
        return False
    return True


def compile_times(quant: quants.Quant, works: dict[str, tuple[Work, Work]]) -> tuple[dict[str, float], float | None]:
    """Of writing each kernel's code down and compiling it, and of loading the first one."""
    if not isinstance(quant, KernelQuant):
        return {}, None
    target, codes = processor.host(), [quant.codes[work] for work in works]
    compile_s = {work: seconds(lambda code=code: code.compile(target)) for work, code in zip(works, codes, strict=True)}
    return compile_s, seconds(lambda: codes[0].load(target))


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
