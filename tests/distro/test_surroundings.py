"""A fetch where the surroundings are hostile: full disks, read-only places, clocks, terminals, few files."""

from __future__ import annotations

import itertools
import os
import pty
import random
import select
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from distro.config import Settings
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent
from distro.proof import verification
from distro.reference import parse_reference
from tests.fakes import full_disk
from tests.fakes.fetching import COMMAND, Distro
from tests.fakes.full_disk import FREE, disk
from tests.fakes.hub import FakeHub, Fault, serving, sha256

DATA = random.Random(1).randbytes(12_000_000)
needs_disks = pytest.mark.skipif(bool(full_disk.why_not()), reason=f"no disk can be made here: {full_disk.why_not()}")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def distro(tmp_path: Path, hub: FakeHub) -> Distro:
    made = Distro(tmp_path, hub)
    made.publish({"model.bin": DATA, "config.json": b"{}"}, FREE)
    return made


# Disks that are full; `python -m tests.fakes.full_disk` tries them all


@needs_disks
def test_room_that_another_process_took_is_waited_for_with_all_that_came(tmp_path: Path) -> None:
    assert full_disk.eaten(tmp_path, 60) == "right"


@needs_disks
def test_a_disk_without_room_for_another_name_is_full(tmp_path: Path) -> None:
    assert full_disk.inodes(tmp_path, 6) == "right"


# Places that cannot be written


@needs_disks
def test_a_home_that_is_read_only_serves_what_is_in_it(distro: Distro, tmp_path: Path) -> None:
    with disk(tmp_path / "home", "size=40m") as made:
        fetched = distro("fetch", "tiny")
        made.resize("ro,size=40m")
        assert distro("fetch", "tiny").stdout == fetched.stdout
        assert distro("verify", "tiny", "--full").returncode == 0
        copied = distro("fetch", "tiny", "-o", str(tmp_path / "copy"))
        assert copied.returncode == 0, copied.stderr
        assert (tmp_path / "copy" / "model.bin").read_bytes() == DATA
        refused = distro("rm", "tiny")
        assert (refused.returncode, refused.stderr.count("error: ")) == (73, 1)


@needs_disks
@pytest.mark.parametrize("where", ["home", "output"])
def test_a_place_that_is_read_only_is_said_before_a_byte_comes(
    where: str, distro: Distro, hub: FakeHub, tmp_path: Path
) -> None:
    with disk(tmp_path / "fixed", "size=40m") as made:
        made.resize("ro,size=40m")
        place = str(tmp_path / "fixed" / "x")
        refused = (
            distro("fetch", "tiny", "-o", place) if where == "output" else distro("fetch", "tiny", DISTRO_HOME=place)
        )
    assert refused.returncode == 73
    assert refused.stderr.splitlines()[-1].endswith("fixed may not be written")
    assert hub.transfers() == []


# Few files, little memory


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not here")
def test_few_open_files_are_enough(tmp_path: Path, hub: FakeHub) -> None:
    hub.add("owner/many", {f"{number:03d}.txt": b"%d" % number for number in range(150)} | {"model.bin": DATA})
    distro = Distro(tmp_path, hub, ("prlimit", "--nofile=64"))
    done = distro("fetch", "hf:owner/many")
    assert done.returncode == 0, done.stderr
    assert len(list(Path(done.stdout.strip()).glob("*.txt"))) == 150
    assert distro("verify", "hf:owner/many", "--full").returncode == 0


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not here")
def test_less_memory_than_the_file_has_is_enough(tmp_path: Path, hub: FakeHub) -> None:
    """Of addresses: those of a stack for each thread are among them."""
    size = 180_000_000
    made = Distro(tmp_path, hub, ("prlimit", f"--as={size}"))
    hub.add("owner/large", {"model.bin": DATA[:1_000_000] * 180})
    done = made("fetch", "hf:owner/large")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).stat().st_size == size


def test_threads_that_the_system_has_no_room_for_are_done_without(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"{number}.txt": b"%d" % number for number in range(6)} | {"model.bin": DATA}
    hub.plain = dict(contents)
    files = tuple(File(path, len(data), sha256=sha256(data)) for path, data in contents.items())
    variant = Variant("v", "gguf", files, (f"{hub.url}/plain/",))
    real, n_begun, n_refused = threading.Thread.start, Counter[str](), 0

    def start(thread: threading.Thread) -> None:
        nonlocal n_refused
        kind = thread.name.partition(" ")[0]
        if kind in ("from", "several") and n_begun[kind]:
            n_refused += 1
            raise RuntimeError("can't start new thread")
        n_begun[kind] += 1
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    settings = Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0)
    folder = fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent())
    assert {path: (folder / path).read_bytes() for path in contents} == contents
    assert n_refused


# Terminals


def _in_terminal(distro: Distro) -> tuple[int, int]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(COMMAND[0], [*COMMAND, "fetch", "tiny"], distro.environment(TERM="xterm"))  # noqa: S606
    return pid, terminal


def _until(hub: FakeHub, n_bytes: int, terminal: int) -> None:
    deadline = time.monotonic() + 30
    while hub.n_sent() < n_bytes:
        assert time.monotonic() < deadline, "nothing comes"
        _drain(terminal)


def _drain(terminal: int) -> None:
    if select.select([terminal], [], [], 0.05)[0]:
        with suppress(OSError):  # at its end
            os.read(terminal, 1 << 16)


def _ended(pid: int, seconds: float, terminal: int = -1) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if terminal >= 0:
            _drain(terminal)
        else:
            time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"did not end within {seconds:g} s")


@pytest.mark.parametrize(("typed", "code"), [(b"\x03\x03", 130), (None, 129)], ids=["^C^C", "gone"])
def test_a_terminal_ends_a_fetch_which_goes_on_later(
    typed: bytes | None, code: int, distro: Distro, hub: FakeHub
) -> None:
    slow = Fault(times=100, rate=6_000_000)
    hub.faults.append(slow)
    pid, terminal = _in_terminal(distro)
    _until(hub, 6_000_000, terminal)
    if typed is None:
        os.close(terminal)
    else:
        os.write(terminal, typed)
    assert _ended(pid, 4.0) == code
    if typed is not None:
        os.close(terminal)
    slow.times, before = 0, len(hub.transfers())
    done = distro("fetch", "tiny")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.bin").read_bytes() == DATA
    asked = [request.headers.get("range", "") for request in hub.transfers()[before:] if "model.bin" in request.path]
    assert "bytes=0-" not in asked  # what came before was there


def test_a_fetch_that_was_stopped_goes_on_when_it_may(distro: Distro, hub: FakeHub) -> None:
    hub.faults.append(Fault(times=100, rate=6_000_000))
    pid, terminal = _in_terminal(distro)
    _until(hub, 3_000_000, terminal)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(pid, signal.SIGCONT)
    assert _ended(pid, 30.0, terminal) == 0
    os.close(terminal)
    assert (distro.base / "home/models/tiny/hf/model.bin").read_bytes() == DATA


@pytest.mark.skipif(sys.platform != "linux", reason="the code is Linux's")
def test_readers_that_are_gone_end_a_fetch_and_take_nothing_away(distro: Distro, hub: FakeHub) -> None:
    slow = Fault(times=100, rate=4_000_000)
    hub.faults.append(slow)
    running = distro.start("fetch", "tiny", "--json")
    assert running.stdout is not None and running.stderr is not None
    running.stderr.readline()
    running.stdout.close()
    running.stderr.close()
    assert running.wait(30) in (0, 141)
    slow.times = 0
    done = distro("fetch", "tiny")
    assert (Path(done.stdout.strip()) / "model.bin").read_bytes() == DATA


# Clocks


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_while_it_comes_changes_nothing(
    years: int, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock finds it elsewhere; what waits asks one that does not jump."""
    hub.plain["model.bin"] = DATA
    hub.faults += [Fault(times=1, status=503, headers={"retry-after": "1"}), Fault(times=2, cut_after=5_000_000)]
    variant = Variant("v", "gguf", (File("model.bin", len(DATA), sha256=sha256(DATA)),), (f"{hub.url}/plain/",))
    settings = Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, state_folder=tmp_path / "state")
    now, now_ns, looks = time.time, time.time_ns, itertools.count()
    away_s = years * 365 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: now() + next(looks) % 2 * away_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + next(looks) % 2 * away_s * 10**9)
    began = time.monotonic()
    path = fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent())
    assert time.monotonic() - began < 20
    assert path.read_bytes() == DATA
    assert next(looks) > 0
    for full in (False, True):
        subject = verification.in_store(settings, parse_reference("m:v"))
        (finding,) = verification.verify(settings, subject, full=full, progress=Silent())
        assert finding.verdict.is_right
