"""Sources under a pace: held up byte by byte, or counted where they cannot be held."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.fetch import fetch
from distro.manifest import File
from distro.manners.pace import Clock, Pace, _Limit
from distro.progress import Bar, Silent, SilentBar
from distro.sources import kind_of
from distro.sources.base import StreamSource
from distro.sources.paced import Paced
from distro.store import Partial, Store
from distro.swarm.make import make
from distro.swarm.variant import variant_from_torrent
from tests.fakes.swarm import seeding, settings


class _Stream(StreamSource):
    name = "stream"

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(50_000)


class _Foreign:
    name = "foreign"

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        partial.append(bytes(1_000_000))
        bar.advance(1_000_000)

    def close(self) -> None:
        pass


class _Elapsed:
    def __init__(self) -> None:
        self.s = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.s, lambda: self.s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.s += seconds


@pytest.mark.parametrize(("source", "took_s", "owed_s"), [(_Stream(), 9.9, 0.0), (_Foreign(), 0.0, 9.9)])
def test_what_passes_through_us_is_held_up_the_rest_is_owed(
    tmp_path: Path, source: StreamSource | _Foreign, took_s: float, owed_s: float
) -> None:
    elapsed, limit = _Elapsed(), _Limit(100_000)
    pace = Pace([limit], clock=elapsed.clock())
    with Store(tmp_path).partial("m", "v", File("f", 1_000_000)) as partial, SilentBar() as bar:
        Paced(source, pace).transfer(File("f", 1_000_000), partial, bar)
        assert partial.size == 1_000_000
    assert elapsed.s == pytest.approx(took_s, abs=0.3)
    assert pace.note(0) - elapsed.s == pytest.approx(owed_s, abs=0.3)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("hf:owner/name@main", "hub"),
        ("index:package==1/folder", "index"),
        ("magnet:?xt=urn:btih:00", "swarm"),
        ("https://host/x.torrent", "swarm"),
        ("https://host/folder/", "mirror"),
    ],
)
def test_every_source_is_of_a_kind(reference: str, kind: str) -> None:
    assert kind_of(reference) == kind


def test_a_swarm_keeps_to_its_limit(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(random.Random(1).randbytes(3_000_000))
    (tmp_path / "x.torrent").write_bytes(make(folder).encode())
    home = replace(settings(tmp_path / "home"), limits=(("swarm", 1_500_000),))
    model, variant = variant_from_torrent(make(folder), source=str(tmp_path / "x.torrent"))
    with seeding(folder) as seeder:
        began = time.monotonic()
        fetch(home, model, variant, progress=Silent(), peers=[seeder.peer])
        took = time.monotonic() - began
    assert 1.2 < took < 10
