#!/usr/bin/env python3
"""A file from a server on loopback, until it is proven, by us and by everyone else who is installed, in turns.

    scripts/bench_fetch [--size 1GB] [--rounds 3] [--work FOLDER] [--link 0.03,0.01] [--json FILE]

    distro    fetch, verification and fsync included
    curl      one connection, then sha256sum
    aria2     eight connections, --checksum=sha-256
    hf        `hf download` of the same file from a hub, then sha256sum (it has none of its own for HTTP)

Four things are measured: the time to a proven file with a server as fast as it can be; the bytes that come a second
time when a download is killed at 90 % and started again; what two sources of 50 MB/s each come to together; and on
loopback what one of them and a peer of 30 MB/s come to, and how much of it in vain.

--link: seconds there and back, and the part of packets that is lost, between the tools and the servers. That takes
network namespaces, so root on Linux (tests/fakes/link.py); give it a --size of 200 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from distro.quantity import parse_bytes
from tests.fakes import fast_server
from tests.fakes.fast_server import RATE
from tests.fakes.hub import Fault, serving
from tests.fakes.link import End, link, why_not
from tests.fakes.swarm import seeding

ROOT = Path(__file__).resolve().parent.parent
NAME = "model.bin"
PEER_RATE = 30_000_000
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cost:
    """wall_s: until the file was proven. on_disk_s: until the system had written it, too. peak: bytes of memory."""

    wall_s: float
    on_disk_s: float
    cpu_s: float
    peak: int


@dataclass(frozen=True)
class Tool:
    """steps: commands one after the other; the environment they run in; enter: and what they begin with."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict)
    enter: tuple[str, ...] = ()


# The servers


class _Here:
    """This machine as an end of a link, which has none."""

    address = "127.0.0.1"
    enter: tuple[str, ...] = ()

    def inside(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class _Ends:
    """near: where the tools run. far: where the servers do."""

    near: End | _Here = field(default_factory=_Here)
    far: End | _Here = field(default_factory=_Here)

    def sent(self, address: str) -> int:
        """Bytes of files that a server has sent."""
        with self.near.inside(), urlopen(f"{address}/sent") as answer:  # noqa: S310  our own server
            return int(answer.read())


@contextmanager
def _running(path: Path, ends: _Ends) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [*ends.far.enter, sys.executable, fast_server.__file__, str(path), ends.far.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(next(iter(process.stdout or ())))
            yield f"http://{ends.far.address}:{port}"
        finally:
            process.kill()


@contextmanager
def _ends(between: str) -> Iterator[_Ends]:
    """between: seconds there and back, and what is lost, as text; empty for nothing but this machine."""
    if not between:
        yield _Ends()
        return
    if why := why_not():
        raise SystemExit(f"--link: {why}")
    round_trip_s, loss = map(float, between.split(","))
    with link(delay_s=round_trip_s / 2, loss=loss) as made:
        yield _Ends(made.near, made.far)


# The tools


def _distro(
    work: Path, name: str, file: File, sources: Sequence[str], ends: _Ends, *, magnet: str = "", peer: str = ""
) -> Tool:  # fmt: skip
    """sources: addresses of the file. magnet: of a torrent of it, and a peer that has it."""
    folder = work / f"config-{name}"
    (folder / "manifests").mkdir(parents=True, exist_ok=True)
    variant = Variant("bin", "other", (file,), (magnet,) if magnet else ())
    family = Family("bench", "us", License("MIT", "https://example.org", "allowed"),
                    (Model("bench", 0, "", "bin", (variant,)),))  # fmt: skip
    (folder / "manifests" / "bench.toml").write_text(dump(family))
    environment = {"DISTRO_CONFIG": str(folder), "DISTRO_HOME": str(work / "out" / "home"),
                   "DISTRO_STATE": str(work / "out" / "state"), "HF_HOME": str(work / "out" / "hf"),
                   "PYTHONPATH": str(ROOT), "DISTRO_MIRRORS": " ".join(sources)}  # fmt: skip
    code = "from distro.cli import main; main()"
    step = (sys.executable, "-c", code, "--quiet", "fetch", "bench:bin", *(("--peer", peer) if peer else ()))
    return Tool("distro", (step,), environment, ends.near.enter)


def _tools(work: Path, file: File, url: str, hub: str, ends: _Ends) -> list[Tool]:
    """Those that are installed. url: of the file, hub: of the hub that has it as owner/model."""
    enter = ends.near.enter
    out, sha256 = work / "out", str(file.sha256)
    tools = [_distro(work, "one", file, [url], ends)]
    check = ("sh", "-c", f"test $(sha256sum {out}/{NAME} | cut -c1-64) = {sha256}")
    if curl := shutil.which("curl"):
        tools.append(Tool("curl", ((curl, "-s", "-C", "-", "-o", f"{out}/{NAME}", url), check), enter=enter))
    if aria2 := shutil.which("aria2c"):
        options = ("-q", "-c", "-x8", "-s8", "-k1M", "--file-allocation=none", f"--checksum=sha-256={sha256}")
        tools.append(Tool("aria2", ((aria2, *options, "-d", str(out), "-o", NAME, url),), enter=enter))
    hf = shutil.which("hf", path=f"{BIN}:{os.environ.get('PATH', '')}")
    if hf and hub:
        environment = {"HF_ENDPOINT": hub, "HF_HOME": str(out / "hf"), "HF_HUB_DISABLE_XET": "1",
                       "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        download = (hf, "download", "-q", "owner/model", NAME, "--local-dir", str(out))
        tools.append(Tool("hf", (download, check), environment, enter))
    return tools


def _begin(tool: Tool, step: Sequence[str]) -> subprocess.Popen[bytes]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DISTRO_"))}
    return subprocess.Popen(
        [*tool.enter, *step], env=kept | tool.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _run(tool: Tool) -> Cost:
    cpu_s, peak, began = 0.0, 0, time.monotonic()
    for step in tool.steps:
        process = _begin(tool, step)
        told = b"".join(process.stderr or ())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{tool.name}: {' '.join(step)} ended with {process.returncode}: {told.decode()}")
        cpu_s += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * 1024)
    wall_s = time.monotonic() - began
    os.sync()
    return Cost(wall_s, time.monotonic() - began, cpu_s, peak)


def _fresh(work: Path) -> None:
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out").mkdir(parents=True)
    os.sync()


def _again_after_a_kill(tool: Tool, work: Path, ends: _Ends, address: str, size: int) -> int:
    """Bytes that were sent more than the file has, in a run that is killed at 90 % and one that ends it."""
    _fresh(work)
    before = ends.sent(address)
    process = _begin(tool, tool.steps[0])
    while ends.sent(address) - before < 0.9 * size and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _run(tool)
    return ends.sent(address) - before - size


def _times(tools: Sequence[Tool], work: Path, rounds: int) -> dict[str, Cost]:
    costs: dict[str, list[Cost]] = {tool.name: [] for tool in tools}
    for _ in range(rounds):
        for tool in tools:
            _fresh(work)
            costs[tool.name].append(_run(tool))
    return {name: _median(each) for name, each in costs.items()}


def _speed(tool: Tool, work: Path, size: int) -> float:
    """MB/s of a whole process."""
    _fresh(work)
    return size / _run(tool).wall_s / 1e6


def _with_a_peer(work: Path, file: File, address: str, ends: _Ends) -> tuple[float, float, float]:
    """MB/s from a peer alone, from it and a source together, and the part of the latter that came in vain."""
    folder, size = work / "seeded", file.size or 0
    folder.mkdir(exist_ok=True)
    (folder / NAME).unlink(missing_ok=True)
    (folder / NAME).hardlink_to(work / "served")
    speeds, before = [], ends.sent(address)
    for sources in ([], [f"{address}/rated"]):
        with seeding(folder, limit=PEER_RATE) as seeder:
            peer = "{}:{}".format(*seeder.peer)
            tool = _distro(work, f"peer{len(sources)}", file, sources, ends, magnet=seeder.magnet, peer=peer)
            speeds.append(_speed(tool, work, size))
    return speeds[0], speeds[1], (seeder.uploaded + ends.sent(address) - before) / size - 1


def _make(path: Path, size: int) -> File:
    """A file of random bytes, kept from one run to the next."""
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as stream:
            for start in range(0, size, 1 << 20):
                stream.write(os.urandom(min(1 << 20, size - start)))
    with path.open("rb") as stream:
        return File(NAME, size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("bench-fetch"))
    parser.add_argument("--link", default="", help="0.03,0.01: seconds there and back, part of packets lost")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    file = _make(work / "served", parse_bytes(arguments.size))
    with _ends(arguments.link) as ends:
        report = measure(work, file, arguments.rounds, ends)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(work: Path, file: File, rounds: int, ends: _Ends) -> dict[str, object]:
    size, served = file.size or 0, work / "served"
    with ExitStack() as stack:
        with ends.far.inside():
            hub = stack.enter_context(serving(host=ends.far.address))
        one, two = (stack.enter_context(_running(served, ends)) for _ in range(2))
        hub.add("owner/model", {NAME: _Announced(size, str(file.sha256))})
        hub.faults = [Fault(redirect=f"{one}/file")]
        tools = _tools(work, file, f"{one}/file", hub.url, ends)
        for name in {"curl", "aria2", "hf"} - {tool.name for tool in tools}:
            print(f"{name}: not installed")
        medians = _times(tools, work, rounds)
        print(f"{size / 1e9:.2f} GB, proven; median of {rounds}   wall s  and on disk  cpu s  peak MB")
        for name, cost in medians.items():
            print(f"{name:34}{cost.wall_s:8.2f}{cost.on_disk_s:13.2f}{cost.cpu_s:7.2f}{cost.peak / 1e6:9.0f}")
        hub.faults = [Fault(redirect=f"{one}/rated")]
        again = {
            tool.name: _again_after_a_kill(tool, work, ends, one, size)
            for tool in _tools(work, file, f"{one}/rated", hub.url, ends)
        }
        print("MB that came again after a kill at 90 %: " + ", ".join(f"{n} {b / 1e6:.1f}" for n, b in again.items()))
        alone, together = (
            _speed(_distro(work, name, file, [f"{address}/rated" for address in addresses], ends), work, size)
            for name, addresses in (("one", [one]), ("two", [one, two]))
        )
        print(f"a source of {RATE / 1e6:.0f} MB/s: {alone:.1f} MB/s, proven; two of them together: {together:.1f} MB/s")
        speeds = {"one source": alone, "two": together}
        if not ends.near.enter:
            peer, both, in_vain = _with_a_peer(work, file, one, ends)
            speeds |= {"a peer": peer, "a peer and a source": both}
            told = f"with that source: {both:.1f} MB/s, {in_vain:.1%} of it in vain"
            print(f"a peer of {PEER_RATE / 1e6:.0f} MB/s: {peer:.1f} MB/s, proven; {told}")
    _fresh(work)
    sides = {name: vars(cost) for name, cost in medians.items()}
    return {"size": size, "sides": sides, "again": again, "mb_s": speeds}


class _Announced(bytes):
    """What the hub says of a file whose bytes are elsewhere."""

    size: int
    digest: str

    def __new__(cls, size: int, digest: str) -> _Announced:
        made = super().__new__(cls)
        made.size, made.digest = size, digest
        return made

    def __len__(self) -> int:
        return self.size


def _median(costs: Sequence[Cost]) -> Cost:
    middle = {
        name: statistics.median(getattr(cost, name) for cost in costs) for name in ("wall_s", "on_disk_s", "cpu_s")
    }
    return Cost(**middle, peak=max(cost.peak for cost in costs))


if __name__ == "__main__":
    main()
