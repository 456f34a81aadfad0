#!/usr/bin/env python3
"""A folder of BF16 safetensors into a quantized GGUF: our one pass beside llama.cpp's convert script and quantizer.

    scripts/bench_convert --llama-cpp TREE [--quant q4_k_m] [--threads 2] [--rounds 3]
                          [--width 1024] [--layers 12] [--work FOLDER] [--json FILE]

The model is a llama of random weights with SmolLM2's vocabulary, made for the occasion. TREE is a checkout of llama.cpp
with `llama-quantize` built in build/bin (`cmake -B build && cmake --build build --target llama-quantize`), or anywhere
on the PATH; without it only our side runs. Whole processes, one after the other, in turns, so that a noisy machine is
noisy for both; the median of the rounds counts. The tensors of both results are compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from converters import dtypes, quants
from converters import plan as planning
from converters.architectures import llama
from converters.formats import open_checkpoint, safetensors
from converters.hyperparameters import HyperParameters
from converters.recipe import Recipe
from converters.tensors import TensorInfo
from distro import api

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = "smollm2-135m-instruct:q4_1"
SAMPLE = 1 << 22  # random numbers, of which all weights are made


@dataclass(frozen=True)
class Cost:
    """What one process took. peak: bytes of memory at most; written: bytes of the files that it made."""

    wall_s: float
    cpu_s: float
    peak: int
    written: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--quant", default="q4_k_m")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path("bench-convert"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    source = make_model(work / f"llama-{arguments.width}x{arguments.layers}", arguments.width, arguments.layers)
    size = (source / "model.safetensors").stat().st_size
    print(f"{size / 1e9:.2f} GB of BF16 to {arguments.quant}, {arguments.threads} threads, {arguments.rounds} rounds")
    sides = {"distro": [_ours(source, work, arguments.quant, arguments.threads)]}
    if arguments.llama_cpp:
        sides["llama.cpp"] = _theirs(arguments.llama_cpp, source, work, arguments.quant, arguments.threads)
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    disk: list[float] = []
    for _ in range(arguments.rounds):
        for name, steps in sides.items():
            costs[name].append(_all(run(command, output) for command, output in steps))
        disk.append(disk_speed(work, costs["distro"][0].written))
    report = {name: _median(each) for name, each in costs.items()}
    if arguments.llama_cpp:
        print(f"{compare(work / 'ours.gguf', work / 'theirs.gguf')} tensors, all of the same type, byte for byte equal")
    _show(report, costs, size, statistics.median(disk))
    if arguments.json:
        said = {name: vars(cost) for name, cost in report.items()}
        arguments.json.write_text(json.dumps({"input_bytes": size, "sides": said}, indent=2) + "\n")


def make_model(folder: Path, width: int, layers: int) -> Path:
    """A folder as Hugging Face's libraries keep a llama: BF16 weights of one normal distribution, a real vocabulary."""
    if (folder / "model.safetensors").exists():
        return folder
    with open_checkpoint(api.fetch(VOCABULARY)) as checkpoint:
        plan = planning.make(checkpoint, Recipe("safetensors", "bf16"), "vocabulary")
        vocab_size = checkpoint.hyperparameters.vocab_size
    folder.mkdir()
    for file in plan.files:
        if not file.tensors:
            (folder / file.path).write_bytes(file.head)
    parameters = HyperParameters(
        dim=width, hidden_dim=4 * width, n_layers=layers, n_heads=width // 64, n_kv_heads=max(1, width // 256),
        head_dim=64, vocab_size=vocab_size, norm_eps=1e-5, rope_theta=10_000.0, context_length=8192,
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config |= llama.to_config(parameters) | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shapes = llama.shapes(parameters)
    infos = [TensorInfo(theirs, dtypes.BF16, shapes[ours]) for ours, theirs in llama.hf_names(parameters).items()]
    head, _ = safetensors.head(infos, {"format": "pt"})
    sample = np.random.default_rng(0).standard_normal(SAMPLE, dtype=np.float32).reshape(1, -1) * np.float32(0.02)
    random = quants.encode(sample, dtypes.BF16, tensor="sample", first_index=0).tobytes()
    with (folder / "part").open("wb") as stream:
        stream.write(head)
        n_bytes = sum(info.n_bytes for info in infos)
        for start in range(0, n_bytes, len(random)):
            shift = (start // len(random) * 4099 * 2) % len(random)  # so that no two tensors are the same
            stream.write((random[shift:] + random[:shift])[: n_bytes - start])
    (folder / "part").replace(folder / "model.safetensors")
    return folder


def _ours(source: Path, work: Path, quant: str, threads: int) -> tuple[list[str], Path]:
    main = "from distro.cli import main; main()"
    command = [sys.executable, "-c", main, "-q", "convert", source, "--quant", quant, "--no-check"]
    return [*map(str, command), "--threads", str(threads), "-o", str(work / "ours.gguf")], work / "ours.gguf"


def _theirs(tree: Path, source: Path, work: Path, quant: str, threads: int) -> list[tuple[list[str], Path]]:
    built = tree / "build" / "bin" / "llama-quantize"
    quantize = str(built) if built.exists() else shutil.which("llama-quantize")
    if quantize is None:
        raise SystemExit(f"{built}: not there, and no llama-quantize on the PATH")
    script = [sys.executable, str(tree / "convert_hf_to_gguf.py"), str(source), "--outtype", "bf16", "--outfile"]
    middle, result = work / "theirs-bf16.gguf", work / "theirs.gguf"
    return [
        ([*script, str(middle)], middle),
        ([quantize, str(middle), str(result), quant.upper(), str(threads)], result),
    ]


def run(command: Sequence[str], output: Path) -> Cost:
    """One process, from its start to its end; what it says is thrown away unless it fails."""
    output.unlink(missing_ok=True)
    started = time.monotonic()
    log = output.with_suffix(".log")
    with log.open("wb") as stream:
        process = os.posix_spawnp(
            command[0], command, {**os.environ, "PYTHONPATH": str(ROOT)},
            file_actions=[(os.POSIX_SPAWN_DUP2, stream.fileno(), 1), (os.POSIX_SPAWN_DUP2, stream.fileno(), 2)],
        )  # fmt: skip
        _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    log.unlink()
    cpu_s = used.ru_utime + used.ru_stime
    return Cost(time.monotonic() - started, cpu_s, used.ru_maxrss * 1024, output.stat().st_size)


def disk_speed(work: Path, n_bytes: int) -> float:
    """Bytes a second of writing as much as the result has, and waiting until it is on the disk."""
    data, path = os.urandom(1 << 22), work / "disk"
    started = time.monotonic()
    with path.open("wb") as stream:
        for start in range(0, n_bytes, len(data)):
            stream.write(data[: n_bytes - start])
        os.fsync(stream.fileno())
    speed = n_bytes / (time.monotonic() - started)
    path.unlink()
    return speed


def compare(ours: Path, theirs: Path) -> int:
    """How many tensors there are; stops at the first that differs."""
    with open_checkpoint(ours) as one, open_checkpoint(theirs) as other:
        if one.tensors.keys() != other.tensors.keys():
            raise SystemExit("the results have other tensors")
        for name, tensor in one.tensors.items():
            if tensor.info != other.tensors[name].info:
                raise SystemExit(f"{name}: {tensor.info} against {other.tensors[name].info}")
            for start in range(0, tensor.info.n_rows, 1024):
                stop = min(start + 1024, tensor.info.n_rows)
                if not np.array_equal(tensor.read_rows(start, stop), other.tensors[name].read_rows(start, stop)):
                    raise SystemExit(f"{name}: rows {start} to {stop} differ")
        return len(one.tensors)


def _all(costs: object) -> Cost:
    steps: list[Cost] = list(costs)  # type: ignore[call-overload]
    return Cost(
        sum(cost.wall_s for cost in steps), sum(cost.cpu_s for cost in steps),
        max(cost.peak for cost in steps), sum(cost.written for cost in steps),
    )  # fmt: skip


def _median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.wall_s)[len(costs) // 2]


def _show(report: Mapping[str, Cost], costs: Mapping[str, Sequence[Cost]], size: int, disk: float) -> None:
    print(f"{'':10}{'wall s':>9}{'cpu s':>9}{'peak MiB':>10}{'MB written':>12}{'GB/s in':>9}")
    for name, cost in report.items():
        line = f"{cost.wall_s:9.2f}{cost.cpu_s:9.2f}{cost.peak / 2**20:10.0f}{cost.written / 1e6:12.0f}"
        print(f"{name:10}{line}{size / cost.wall_s / 1e9:9.2f}")
    seconds = report["distro"].written / disk
    print(f"to write our result, the disk alone takes {seconds:.2f} s ({disk / 1e9:.2f} GB/s)")
    if "llama.cpp" in report:
        walls = zip(costs["llama.cpp"], costs["distro"], strict=True)
        ratios = sorted(theirs.wall_s / ours.wall_s for theirs, ours in walls)
        ours, theirs = report["distro"], report["llama.cpp"]
        print(
            f"llama.cpp takes {statistics.median(ratios):.1f} times the time ({ratios[0]:.1f} to {ratios[-1]:.1f}), "
            f"{theirs.cpu_s / ours.cpu_s:.1f} times the processor, writes {theirs.written / ours.written:.1f} times"
        )


if __name__ == "__main__":
    main()
