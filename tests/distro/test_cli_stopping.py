"""Signals: whatever a command is at, it ends within two seconds and with the code that shells expect."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distro.receipt import Entry, Receipt
from distro.store import Store
from tests.fakes.fetching import COMMAND

PRELUDE = """
import sys, threading, time
from distro.cli.stopping import Stopping
stopping = Stopping(lambda code: print("told", code, flush=True))
print("ready", flush=True)
"""
STUBBORN = {
    "a main thread that does not listen": """
try:
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(30)
""",
    "a thread that goes on": """
threading.Thread(target=time.sleep, args=(30,)).start()
time.sleep(30)
""",
    "a lock that nobody gives": """
lock = threading.Lock()
lock.acquire()
try:
    lock.acquire()
finally:
    threading.Event().wait(30)
""",
}


def _stopped(child: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[str, float]:
    """What it printed after it was ready, and how long it took to end."""
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.1)
    began = time.monotonic()
    for number in numbers:
        child.send_signal(number)
        time.sleep(0.1)
    out, _ = child.communicate(timeout=20)
    return out, time.monotonic() - began


def _start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("program", STUBBORN.values(), ids=STUBBORN)
def test_what_does_not_end_by_itself_is_ended(program: str) -> None:
    with _start(program) as child:
        out, took = _stopped(child, signal.SIGTERM)
    assert (child.returncode, out) == (143, "told 143\n")
    assert took < 2


def test_the_second_signal_ends_it_at_once_with_the_code_of_the_first() -> None:
    with _start(STUBBORN["a main thread that does not listen"]) as child:
        out, took = _stopped(child, signal.SIGHUP, signal.SIGINT)
    assert (child.returncode, out) == (129, "told 129\n")
    assert took < 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_verify_is_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    store, size = Store(tmp_path / "home"), 40_000_000_000  # all of it a hole
    folder = store.folder("large", "v")
    folder.mkdir(parents=True)
    with (folder / "hole.bin").open("wb") as stream:
        stream.truncate(size)
    entry = Entry("ab" * 32, size, "a test", "2026-01-31T12:00:00Z")
    store.write_receipt(Receipt("large", "v", "other", {"hole.bin": entry}))
    environment = {"DISTRO_HOME": str(tmp_path / "home"), "DISTRO_STATE": str(tmp_path / "state"),
                   "DISTRO_CONFIG": str(tmp_path / "config")}  # fmt: skip
    with subprocess.Popen(
        [*COMMAND, "verify", "large:v", "--json"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        time.sleep(2)
        assert child.poll() is None
        began = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert child.returncode == code
    assert json.loads(said.splitlines()[-1])["code"] == "interrupted"
