"""Commands that meet: whatever order they come in, files are right or not there, and receipts say what is true."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distro.manifest import License
from tests.fakes.fetching import Distro
from tests.fakes.hub import FakeHub, Fault, serving

FILES = {
    "model-00001-of-00002.safetensors": hashlib.shake_128(b"1").digest(400_000),
    "model-00002-of-00002.safetensors": hashlib.shake_128(b"2").digest(300_000),
    "config.json": b"{}",
}
FETCH = ("fetch", "tiny")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.send_buffer = 16 * 1024
        yield hub


@pytest.fixture
def distro(hub: FakeHub, tmp_path: Path) -> Distro:
    distro = Distro(tmp_path, hub)
    distro.publish(FILES, License("MIT", "https://example.org/license", "allowed"))
    return distro


def _sound(base: Path) -> list[str]:
    """Files that are here, each of them right; every receipt is judged too."""
    found = []
    for path in sorted(base.rglob("*")):
        if path.name in FILES and path.is_file():
            assert path.read_bytes() == FILES[path.name], path
            found.append(str(path.relative_to(base)))
    for path in base.rglob("receipt.json"):
        for name, entry in json.loads(path.read_text())["files"].items():
            assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == entry["sha256"], name
    return found


# The commands that come while the first one, a fetch, is under way; their exit codes; how many copies of the files
# there are in the end, and how many may have been sent, at most.
MEETINGS: dict[str, tuple[list[tuple[str, ...]], list[set[int]], set[int], float]] = {
    "removed and fetched": ([("rm", "tiny"), FETCH], [{0, 66}, {0}], {0, 1}, 2.0),
    "collected, and parts of it": (
        [("gc",), (*FETCH, "--only", "*.json"), (*FETCH, "--only", "*-00002-*")], [{0}, {0}, {0}], {1}, 1.0),
    "to other places": (
        [(*FETCH, "-o", "a"), (*FETCH, "-o", "a"), (*FETCH, "-o", "b")], [{0}, {0}, {0}], {3}, 3.0),
    "verified and mended": ([("verify", "tiny", "--repair"), ("verify", "tiny")], [{0, 66}, {0, 66}], {1}, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETINGS)
def test_what_comes_while_a_fetch_is_under_way(name: str, distro: Distro, hub: FakeHub, tmp_path: Path) -> None:
    others, codes, copies, most = MEETINGS[name]
    hub.faults = [Fault(rate=600_000)]
    first = distro.start(*FETCH)
    deadline = time.monotonic() + 20
    while not hub.n_sent() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    places = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}
    started = [first, *(distro.start(*(places.get(each, each) for each in command)) for command in others)]
    said = [each.communicate(timeout=50) for each in started]
    assert first.returncode == 0, said
    assert all(each.returncode in allowed for each, allowed in zip(started[1:], codes, strict=True)), said
    assert all("Traceback" not in err and "fault of ours" not in err for _, err in said)
    n_copies, rest = divmod(len(_sound(tmp_path)), len(FILES))
    assert rest == 0
    assert n_copies in copies
    assert hub.n_sent() <= most * sum(map(len, FILES.values()))
    hub.faults = []
    assert distro(*FETCH).returncode == 0
    assert len(_sound(tmp_path / "home")) == len(FILES)
    parts = [path.name for path in (tmp_path / "home" / "partial").glob("*") if path.name != "locks"]
    assert parts == []
