"""Commands that a power cut may meet, as functions of a folder: base/root is what they write to, base/given is not."""

from __future__ import annotations

import hashlib
import mmap
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from converters import convert
from converters import plan as planning
from converters.recipe import Recipe
from distro import edit, fetch, fetch_as, redo
from distro.config import Settings
from distro.errors import CannotCreateError
from distro.fetching.lane import MOST_CONNECTIONS
from distro.lookup import wanted
from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from distro.partial import Partial
from distro.progress import Silent
from distro.proof import piece_hashes, repair, verification
from distro.receipt import Entry, Receipt
from distro.reference import parse_reference
from distro.store import Store
from tests.fakes import derived, gguf_bytes, tiny_llama
from tests.fakes.hub import FakeHub, serving

PIECE = 16 * 1024
WEIGHTS = random.Random(7).randbytes(25 * PIECE + 1234)
SMALL = b'{"model_type": "llama"}'
CONFIG, SHARD = "config.json", "weights/model.safetensors"
REFUSED = object()


@dataclass(frozen=True)
class Command:
    """run: raises what the command raises, gives REFUSED where it would not do it again.

    is_torn: whether a file may be neither what it was nor what it is to be while the command is under way, because a
    record beside it says how to go on. may_vanish: whether all of it may have another name for a moment. n_done: how
    much work was done so far, of a kind that is not to be done twice. wasted: how much of it may be lost when a call
    fails.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], object]
    is_torn: Callable[[Path], bool] = lambda path: False
    may_vanish: bool = False
    n_done: Callable[[], int] = lambda: 0
    wasted: int = 0
    discards: bool = False


def settings_of(base: Path) -> Settings:
    root = base / "root"
    return Settings(root / "home", base / "config", timeout_s=10.0, state_folder=root / "state")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _variant(*sources: str) -> tuple[Model, Variant]:
    files = (
        File(CONFIG, len(SMALL), sha256=_sha256(SMALL)),
        File(SHARD, len(WEIGHTS), sha256=_sha256(WEIGHTS)),
    )
    variant = Variant("v", "safetensors", files, sources)
    return Model("m", 1, "llama", "v", (variant,)), variant


def _given(base: Path) -> None:
    _empty(base)
    (base / "given" / "weights").mkdir(parents=True)
    (base / "given" / CONFIG).write_bytes(SMALL)
    (base / "given" / SHARD).write_bytes(WEIGHTS)


def _empty(base: Path) -> None:
    (base / "root").mkdir(parents=True)
    (base / "config" / "manifests").mkdir(parents=True)
    family = Family("m", "us", License("MIT", "https://spdx.org/licenses/MIT.html", "allowed"), (_variant()[0],))
    (base / "config" / "manifests" / "m.toml").write_text(dump(family))


def _source(base: Path) -> None:
    _empty(base)
    tiny_llama.write(base / "given")


def _fetch_copy(base: Path) -> None:
    fetch.fetch(settings_of(base), *_variant(), progress=Silent(), folder=base / "given")


def _fetch_beside(base: Path) -> None:
    target = base / "root" / "out"
    fetch.fetch(settings_of(base), *_variant(), progress=Silent(), folder=base / "given", target=target)


def _fetch_more(base: Path) -> None:
    """The rest of a variant of which one file was fetched before."""
    _given(base)
    fetch.fetch(settings_of(base), *_variant(), progress=Silent(), folder=base / "given", only="*.json")


class _Count:
    """A number that this process and those forked from it count together, also where they are killed meanwhile."""

    def __init__(self) -> None:
        self._memory, self._lock = mmap.mmap(-1, 8), threading.Lock()

    def __call__(self) -> int:
        return int.from_bytes(self._memory[:], "little")

    def add(self, n: int) -> None:
        with self._lock:
            self._memory[:] = (self() + n).to_bytes(8, "little")


_n_blocks = _Count()  # that conversions made
_n_written = _Count()  # bytes of part files


def _convert_in_store(base: Path) -> None:
    derived.into_store(Store(base / "root" / "home"), base / "given", Recipe("gguf", "q8_0"), "tiny", "q8_0")


def _convert(recipe: Recipe, name: str, *, replace: bool = False) -> Callable[[Path], object]:
    def run(base: Path) -> object:
        target, store = base / "root" / "out" / name, Store(base / "root" / "home")
        try:
            derived.into_path(store, base / "given", recipe, target, replace=replace)
        except CannotCreateError as error:
            if "is there already" not in str(error):
                raise
            return REFUSED
        return None

    return run


def _older(name: str) -> Callable[[Path], None]:
    """Something of another type is where the result is to be."""

    def prepare(base: Path) -> None:
        _source(base)
        recipe = Recipe("gguf", "f16") if name.endswith(".gguf") else Recipe("safetensors", "bf16")
        _convert(recipe, name)(base)

    return prepare


def _shards(recipe: str) -> Recipe:
    return Recipe("safetensors", recipe, max_shard_bytes=60_000)


def _split() -> Recipe:
    return Recipe("gguf", "q8_0", max_shard_bytes=60_000)


def _damaged(base: Path) -> None:
    _given(base)
    store, entries, lists = Store(base / "root" / "home"), {}, []
    folder = store.folder("m", "v")
    for name, content in ((CONFIG, SMALL), (SHARD, WEIGHTS)):
        hasher = piece_hashes.PieceHasher(len(content))
        hasher.update(content)
        made = hasher.finish(_sha256(content))
        lists += [made] if made else []
        entries[name] = Entry(
            _sha256(content), len(content), "a test", "2026-01-31T12:00:00Z", pieces=made.digest if made else None
        )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bad = bytearray(content)
        bad[2::100_000] = bytes(len(bad[2::100_000]))
        (folder / name).write_bytes(bad)
    store.write_receipt(Receipt("m", "v", "safetensors", entries), lists)


def _repair(base: Path) -> None:
    settings = settings_of(base)
    subject = verification.in_store(settings, parse_reference("m:v"))
    _mend(settings, subject, repair.Helpers(folder=base / "given"))


def _mend(settings: Settings, subject: verification.Subject, helpers: repair.Helpers) -> None:
    findings = verification.verify(settings, subject, full=False, progress=Silent())
    outcome = repair.repair(settings, subject, findings, helpers, progress=Silent())
    if outcome.failure is not None:
        raise outcome.failure


def _unlisted(base: Path) -> None:
    """Fetched by a version that kept no lists of piece hashes."""
    _given(base)
    settings, (model, variant) = settings_of(base), _variant()
    fetch.fetch(settings, model, variant, progress=Silent(), folder=base / "given")
    receipt = Store(settings.home).receipt(model.name, variant.name)
    assert receipt is not None
    entries = {path: replace(entry, pieces=None) for path, entry in receipt.files.items()}
    Store(settings.home).write_receipt(replace(receipt, files=entries))


def _verify(base: Path) -> None:
    settings = settings_of(base)
    subject = verification.in_store(settings, parse_reference("m:v"))
    findings = verification.verify(settings, subject, full=True, progress=Silent())
    assert all(each.verdict.is_right for each in findings)


def _gguf(base: Path) -> None:
    (base / "root" / "out").mkdir(parents=True)
    (base / "root" / "out" / "model.gguf").write_bytes(gguf_bytes.llama().build())


def _edit(name: str) -> Callable[[Path], None]:
    def run(base: Path) -> None:
        path = base / "root" / "out" / "model.gguf"
        edit.edit(Store(base / "root" / "home"), path, {"general.name": name}, progress=Silent())

    return run


def _with_room(base: Path) -> None:
    """A header with padding, over four pages, in which everything moves when the name grows."""
    _gguf(base)
    _edit("A name that needs much more room than there is in this header" * 60)(base)


def _remove(base: Path) -> None:
    store, (model, variant) = Store(base / "root" / "home"), _variant()
    store.remove(model.name, variant.name, variant.files, variant.sources)


def _is_marked(path: Path) -> bool:
    """Whether nobody takes it for a whole file; the mark may be torn itself."""
    return redo.record_of(path).exists() and not path.read_bytes().startswith(b"GGUF\3\0\0\0")


LOCAL = (
    Command("fetch-copy", _given, _fetch_copy),
    Command("fetch-beside", _given, _fetch_beside),
    Command("fetch-more", _fetch_more, _fetch_copy),
    Command("convert-store", _source, _convert_in_store, n_done=_n_blocks, wasted=1),
    Command("convert-file", _source, _convert(Recipe("gguf", "q8_0"), "x.gguf"), n_done=_n_blocks, wasted=1),
    Command("convert-folder", _source, _convert(_shards("f16"), "x"), n_done=_n_blocks, wasted=1),
    Command("convert-split", _source, _convert(_split(), "x.gguf"), n_done=_n_blocks, wasted=1),
    Command("replace-file", _older("x.gguf"), _convert(Recipe("gguf", "q8_0"), "x.gguf", replace=True)),
    Command("replace-folder", _older("x"), _convert(_shards("f16"), "x", replace=True), may_vanish=True),
    Command("repair", _damaged, _repair),
    Command("verify", _unlisted, _verify),
    Command("edit-in-place", _with_room, _edit("Another name" * 400), is_torn=_is_marked),
    Command("edit-anew", _gguf, _edit("A name that needs much more room than there is in this header")),
    Command("remove", _unlisted, _remove),
)


def from_hub(hub: FakeHub, other: FakeHub) -> tuple[Command, ...]:
    """What brings bytes over HTTP; weights in pieces, on several connections."""
    arriving = [_fetch_as(hub, discards=each) for each in (False, True)]
    return _fetch_http(hub), _fetch_many(hub, other), _resume(hub, other), _repair_http(hub), *arriving


def _fetch_http(hub: FakeHub) -> Command:

    def prepare(base: Path) -> None:
        _empty(base)
        hub.plain = {CONFIG: SMALL, SHARD: WEIGHTS}

    def run(base: Path) -> None:
        fetch.fetch(settings_of(base), *_variant(f"{hub.url}/plain/"), progress=Silent())

    return Command("fetch-http", prepare, run, n_done=_n_written, wasted=MOST_CONNECTIONS * PIECE)


def _fetch_many(hub: FakeHub, other: FakeHub) -> Command:
    """Several files, of two sources together."""
    contents = {CONFIG: SMALL, SHARD: WEIGHTS, "weights/second.safetensors": WEIGHTS[: 3 * PIECE : -1], "empty": b""}
    files = tuple(File(path, len(content), sha256=_sha256(content)) for path, content in contents.items())

    def prepare(base: Path) -> None:
        _empty(base)
        hub.plain, other.plain = dict(contents), dict(contents)

    def run(base: Path) -> None:
        variant = Variant("v", "safetensors", files, (f"{hub.url}/plain/", f"{other.url}/plain/"))
        fetch.fetch(settings_of(base), Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent())

    return Command("fetch-many", prepare, run, n_done=_n_written, wasted=2 * MOST_CONNECTIONS * PIECE)


def _resume(hub: FakeHub, other: FakeHub) -> Command:
    """The rest of several files, after a run that ended in the middle of the first."""
    begun = _fetch_many(hub, other)

    def prepare(base: Path) -> None:
        begun.prepare(base)
        ends_at, wrote_at = _n_written() + len(WEIGHTS) // 2, Partial.write_at

        def write_at(self: Partial, offset: int, data: bytes | memoryview) -> None:
            if _n_written() > ends_at:
                raise KeyboardInterrupt
            wrote_at(self, offset, data)

        with patch.object(Partial, "write_at", write_at), suppress(KeyboardInterrupt):
            begun.run(base)

    return replace(begun, name="resume", prepare=prepare)


def _fetch_as(hub: FakeHub, *, discards: bool) -> Command:
    """Converted while it arrives."""

    def prepare(base: Path) -> None:
        _empty(base)
        shards = base / "given" / "shards"
        tiny_llama.write(base / "given" / "whole")
        recipe = Recipe("safetensors", "bf16", max_shard_bytes=20_000)
        derived.into_path(Store(base / "given" / "home"), base / "given" / "whole", recipe, shards)
        hub.add("owner/tiny", {path.name: path.read_bytes() for path in shards.iterdir()})

    def run(base: Path) -> None:
        settings = replace(settings_of(base), hub_endpoint=hub.url)
        resolved = wanted(settings, "hf:owner/tiny")
        fetch_as.fetch_as(settings, resolved, "q8_0", threads=1, discard_source=discards, progress=Silent())

    name = "fetch-as-discard" if discards else "fetch-as"
    return Command(name, prepare, run, n_done=_n_blocks, wasted=1, discards=discards)


def _repair_http(hub: FakeHub) -> Command:
    """The bad pieces over HTTP, of one file in the middle and of one all of it."""

    def prepare(base: Path) -> None:
        _damaged(base)
        hub.plain = {CONFIG: SMALL, SHARD: WEIGHTS}

    def run(base: Path) -> None:
        settings = settings_of(base)
        subject = verification.in_store(settings, parse_reference("m:v"))
        subject = replace(subject, variant=replace(_variant()[1], sources=(f"{hub.url}/plain/",)))
        _mend(settings, subject, repair.Helpers())

    return Command("repair-http", prepare, run)


@contextmanager
def commands() -> Iterator[dict[str, Command]]:
    """All of them by name, with small blocks and pieces, so that there is always one to lose."""
    made_rows, wrote_at = convert.make_rows, Partial.write_at

    def make_rows(*arguments: Any) -> Any:
        rows = made_rows(*arguments)
        _n_blocks.add(1)
        return rows

    def write_at(self: Partial, offset: int, data: bytes | memoryview) -> None:
        wrote_at(self, offset, data)
        _n_written.add(len(data))

    with ExitStack() as stack:
        for place, name, value in (
            (planning, "_BLOCK_WEIGHTS", 2048), (piece_hashes, "_SMALLEST", PIECE), (convert, "make_rows", make_rows),
            (Partial, "write_at", write_at),
        ):  # fmt: skip
            stack.enter_context(patch.object(place, name, value))
        hubs = [stack.enter_context(serving()) for _ in range(2)]
        yield {command.name: command for command in (*LOCAL, *from_hub(*hubs))}
