"""A model converted while it arrives: the same bytes as afterwards, with less of it on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters import convert
from converters import plan as planning
from converters.errors import ChangedError
from converters.formats import open_checkpoint
from converters.recipe import Recipe
from distro import disk
from distro.catalog import Resolved
from distro.config import Settings
from distro.derive import Derived
from distro.errors import (
    CannotCreateError,
    DiskFullError,
    NotFoundError,
    SourceError,
    UsageError,
    WrongBytesError,
)
from distro.fetch import fetch
from distro.fetch_as import fetch_as
from distro.lookup import wanted
from distro.manners.choice import Choice
from distro.progress import Silent
from distro.store import Store
from tests.fakes import derived, gguf_bytes, tiny_llama
from tests.fakes.hub import FakeHub, Fault, Request, serving
from tests.fakes.memory_sink import MemorySink


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama in seven shards."""
    base = tmp_path_factory.mktemp("llama")
    source, sink = tiny_llama.write(base / "source"), MemorySink()
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("safetensors", "bf16", max_shard_bytes=8_000), "tiny")
        convert.convert(checkpoint, plan, sink)
    shards = sink.save(base / "shards")
    assert len(list(shards.glob("*.safetensors"))) >= 5
    return shards


@pytest.fixture
def hub(folder: Path) -> Iterator[FakeHub]:
    with serving() as hub:
        hub.add("owner/tiny", {path.name: path.read_bytes() for path in folder.iterdir()})
        yield hub


@pytest.fixture
def settings(hub: FakeHub, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, timeout_s=5.0, retries=1)


def _resolved(settings: Settings) -> Resolved:
    return wanted(settings, "hf:owner/tiny")


def _fetch_as(settings: Settings, **options: object) -> Derived:
    return fetch_as(settings, _resolved(settings), "q8_0", threads=2, progress=Silent(), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    base = tmp_path_factory.mktemp("expected")
    return derived.into_path(Store(base / "h"), folder, Recipe("gguf", "q8_0"), base / "tiny.gguf").path.read_bytes()


def _break(hub: FakeHub, name: str, fault: Fault, patch: pytest.MonkeyPatch) -> None:
    """Let whole transfers of a file go wrong; parts of it, by which its header is read, do not."""
    healthy = hub.take_fault

    def take_fault(path: str) -> Fault:
        asked = hub.requests[-1]
        return fault if name in path and _is_whole(asked) else healthy(path)

    patch.setattr(hub, "take_fault", take_fault)


def _is_whole(request: Request) -> bool:
    """Whether all of a file is asked for, or all from some byte on."""
    return request.headers.get("range", "-").endswith("-")


def _files(home: Path) -> set[str]:
    return {path.name for path in (home / "models").rglob("*") if path.is_file()}


def test_the_result_is_what_converting_afterwards_gives(
    settings: Settings, folder: Path, expected: bytes, hub: FakeHub
) -> None:
    made = _fetch_as(settings)
    assert made.path.read_bytes() == expected
    assert made.verdict is not None and made.verdict.passed
    assert _files(settings.home) == {path.name for path in folder.iterdir()} | {"receipt.json", "tiny-Q8_0.gguf"}
    store = Store(settings.home)
    receipt = store.receipt("owner/tiny", "q8_0")
    source = store.receipt("owner/tiny", _resolved(settings).variant.name)
    assert receipt is not None and source is not None
    shards = {name: entry.sha256 for name, entry in source.files.items() if name.endswith(".safetensors")}
    assert shards.items() <= dict(receipt.inputs).items()
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    sent = sum(request.n_sent for request in hub.transfers() if request.path.endswith(".safetensors"))
    assert sent < 2.1 * weights  # these shards are so small that their headers are all of them


def test_a_discarded_source_leaves_its_digests_and_never_more_than_two_shards(
    settings: Settings, folder: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, real = 0, convert.make_rows

    def make_rows(*arguments: object) -> object:
        nonlocal most
        most = max(most, len(list((settings.home / "models").rglob("*.safetensors"))))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "make_rows", make_rows)
    made = _fetch_as(settings, discard_source=True)
    assert made.path.read_bytes() == expected
    assert made.verdict is None
    assert 1 <= most <= 2
    assert _files(settings.home) == {"tiny-Q8_0.gguf", "receipt.json"}
    receipt = json.loads((made.path.parent / "receipt.json").read_text())
    assert set(receipt["inputs"]) >= {path.name for path in folder.glob("*.safetensors")}


def test_a_run_that_was_stopped_fetches_only_what_is_left(
    settings: Settings, expected: bytes, hub: FakeHub, folder: Path
) -> None:
    last = sorted(path.name for path in folder.glob("*.safetensors"))[-1]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SourceError):
        _break(hub, last, Fault(status=503), patch)
        _fetch_as(settings, discard_source=True)
    before = len(hub.transfers())
    made = _fetch_as(settings, discard_source=True)
    assert made.path.read_bytes() == expected
    bodies = [
        request for request in hub.transfers()[before:]
        if request.path.endswith(".safetensors") and _is_whole(request)
    ]  # fmt: skip
    assert [request.path.rpartition("/")[2] for request in bodies] == [last]
    assert _files(settings.home) == {"tiny-Q8_0.gguf", "receipt.json"}


def test_blocks_that_a_power_cut_took_are_made_again_before_their_source_goes(
    settings: Settings, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has them, the disk has zeros: no fault of the conversion, which a look at the result would say."""
    monkeypatch.setattr(planning, "_BLOCK_WEIGHTS", 256)
    n_made, real = 0, convert.make_rows

    def make_rows(*arguments: object) -> object:
        nonlocal n_made
        n_made += 1
        if n_made > 40:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "make_rows", make_rows)
        _fetch_as(settings, discard_source=True)
    (made,) = (settings.home / "partial").glob("made-*/*.gguf")
    made.write_bytes(bytes(made.stat().st_size))
    assert _fetch_as(settings, discard_source=True).path.read_bytes() == expected


def test_wrong_bytes_of_a_shard_make_no_result(settings: Settings, hub: FakeHub, folder: Path) -> None:
    name = sorted(path.name for path in folder.glob("*.safetensors"))[2]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(WrongBytesError, match=name):
        _break(hub, name, Fault(flip_at=1_000), patch)
        _fetch_as(settings)
    assert not Store(settings.home).folder("owner/tiny", "q8_0").exists()


def test_a_disk_that_is_too_small_is_refused_before_a_shard_is_fetched(
    settings: Settings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 40_000})())
    with pytest.raises(DiskFullError, match="bytes needed, 40000 free"):
        _fetch_as(settings)
    assert not list((settings.home / "models").rglob("*.safetensors"))


def test_what_is_here_is_not_fetched_again(settings: Settings, expected: bytes, hub: FakeHub, tmp_path: Path) -> None:
    resolved = _resolved(settings)
    fetch(settings, resolved.model, resolved.variant, progress=Silent())
    before = hub.n_sent()
    made = _fetch_as(settings, target=tmp_path / "tiny.gguf")
    assert made.path.read_bytes() == expected
    assert hub.n_sent() - before < 50_000  # what the repository is


def test_a_published_name_is_not_taken(settings: Settings) -> None:
    resolved = wanted(settings, "smollm2-135m-instruct:hf")
    with pytest.raises(UsageError, match="is published under that name"):
        fetch_as(settings, resolved, "q4_1", progress=Silent())


def _free(n_bytes: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.shutil, "disk_usage", lambda path: type("Usage", (), {"free": n_bytes})())


def test_room_is_needed_for_the_result_and_its_shards_together(
    settings: Settings, folder: Path, expected: bytes, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sorted(path.stat().st_size for path in folder.glob("*.safetensors"))
    _free(len(expected) + sum(sizes) - 1, monkeypatch)
    with pytest.raises(DiskFullError, match=f"{len(expected) + sum(sizes)} bytes needed"):
        _fetch_as(settings)
    _free(len(expected) + sum(sizes[-2:]) - 1, monkeypatch)
    with pytest.raises(DiskFullError, match=f"{len(expected) + sum(sizes[-2:])} bytes needed"):
        _fetch_as(settings, discard_source=True)
    assert not [request for request in hub.transfers() if _is_whole(request) and request.path.endswith(".safetensors")]
    assert not list((settings.home / "partial").glob("made-*"))


def test_shards_that_are_here_need_no_more_room(
    settings: Settings, folder: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, shards = _resolved(settings), sorted(folder.glob("*.safetensors"))
    for path in shards[:-1]:
        fetch(settings, resolved.model, resolved.variant, progress=Silent(), only=path.name)
    _free(len(expected) + shards[-1].stat().st_size, monkeypatch)
    assert _fetch_as(settings, discard_source=True).path.read_bytes() == expected


def test_one_of_several_models_is_chosen(hub: FakeHub, settings: Settings) -> None:
    model = gguf_bytes.llama().build()
    hub.add("owner/many", {"a-F32.gguf": model, "b-F32.gguf": model + b"", "README.md": b"# many\n"})
    resolved = wanted(settings, "hf:owner/many")
    with pytest.raises(
        UsageError, match=r"has 2 models, a-F32\.gguf, b-F32\.gguf; choose one, .* or --only a-F32\.gguf"
    ):
        fetch_as(settings, resolved, "q8_0", progress=Silent())
    fetch(settings, resolved.model, resolved.variant, progress=Silent(), only="a-F32.gguf")
    made = fetch_as(
        settings, resolved, "q8_0", wanted=Choice(("b-*",)), discard_source=True, threads=1, progress=Silent()
    )
    assert made.path.name == "many-Q8_0.gguf"
    assert _files(settings.home) == {"many-Q8_0.gguf", "receipt.json", "a-F32.gguf"}
    source = Store(settings.home).receipt("owner/many", resolved.variant.name)
    assert source is not None and set(source.files) == {"a-F32.gguf"}
    with pytest.raises(NotFoundError, match=r"no file matches \*\.safetensors"):
        fetch_as(settings, resolved, "q8_0", wanted=Choice(("*.safetensors",)), progress=Silent())


def test_weights_in_another_container_need_not_come(
    hub: FakeHub, settings: Settings, folder: Path, expected: bytes, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("owner/both", files | {"pytorch_model.bin": bytes(200_000)})
    resolved = wanted(settings, "hf:owner/both")
    target = tmp_path / "tiny [1].gguf"
    options = {"threads": 1, "progress": Silent(), "target": target}
    made = fetch_as(settings, resolved, "q8_0", wanted=Choice(but=("*.bin",)), **options)  # type: ignore[arg-type]
    assert made.path.read_bytes() == expected
    assert not [request for request in hub.transfers() if request.path.endswith(".bin")]
    before = len(hub.requests)
    with pytest.raises(CannotCreateError, match="is there already"):
        fetch_as(settings, resolved, "q8_0", **options)  # type: ignore[arg-type]
    assert len(hub.requests) == before


def test_a_header_that_is_not_the_files_own_makes_no_result(settings: Settings, hub: FakeHub, folder: Path) -> None:
    """What plans are made from is read in parts, which nothing proves; the file itself is proven."""
    shard = sorted(folder.glob("*.safetensors"))[1]
    healthy = hub.take_fault

    def take_fault(path: str) -> Fault:
        is_part = shard.name in path and not _is_whole(hub.requests[-1])
        return Fault(flip_at=shard.stat().st_size - 1) if is_part else healthy(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ChangedError, match=f"{shard.name}.* other bytes when"):
        patch.setattr(hub, "take_fault", take_fault)
        _fetch_as(settings)
    assert not Store(settings.home).folder("owner/tiny", "q8_0").exists()
