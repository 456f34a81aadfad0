"""What a fetch would do, looked up without writing: what is here, what arrived before, what is near, what is left.

Nothing is read but names, sizes, receipts and resume records, so that it takes no longer for 800 GB; what has the right
size is believed here, and proven when it is fetched. The size of a conversion comes from the headers of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distro import disk
from distro.config import Settings
from distro.errors import MalformedManifestError
from distro.manifest import File, Model, Variant
from distro.manners.choice import EVERYTHING, Choice
from distro.manners.mirrors import mirrors_of
from distro.sources.caches import caches_of, size_of
from distro.store import Store
from distro.verify import strongest

if TYPE_CHECKING:
    from converters.plan import Plan
    from distro.receipt import Entry


_Place = tuple[str, Callable[[File], Iterable[Path]]]  # what it is called, and where it would have a file


@dataclass(frozen=True)
class Look:
    """One file. proof: the kind of its strongest digest, None where nobody published one.

    state: "here" (its receipt says so), "unproven" (it has its place, nobody knows whether rightly), "near" (a copy is
    on this machine, `near` says where), "partial" (some of it arrived), "missing". Bytes: `arrived` of it before, still
    `to_fetch` from the network, `to_write` to the disk; None where nobody published the size.
    """

    file: File
    proof: str | None
    state: str
    near: str | None = None
    arrived: int = 0
    to_fetch: int | None = 0
    to_write: int | None = 0


@dataclass(frozen=True)
class Preview:
    """place: where the files go. sources: in the order of asking. free: bytes of the disk there."""

    place: Path
    looks: tuple[Look, ...]
    sources: tuple[str, ...]
    free: int

    @property
    def to_fetch(self) -> int | None:
        return _sum([look.to_fetch for look in self.looks])

    @property
    def needed(self) -> int | None:
        """Bytes of the disk that it takes yet."""
        return _sum([look.to_write for look in self.looks])


def preview(
    settings: Settings,
    model: Model,
    variant: Variant,
    *,
    wanted: Choice = EVERYTHING,
    target: Path | None = None,
    folder: Path | None = None,
) -> Preview:
    """What `fetch` with the same arguments finds. Raises UsageError for a mirror that cannot have the variant."""
    store = Store(settings.home)
    place = target or store.folder(model.name, variant.name)
    received = {} if target else _received(store, model, variant)
    sources = [mirror.source for mirror in mirrors_of(settings, model, variant)] + list(variant.sources)
    near = list(_near(settings, store, model, variant, target, folder))
    looks = [
        _look(store, model, variant, file, received.get(file.path), place, target, near)
        for file in variant.files
        if wanted(file.path)
    ]
    return Preview(place, tuple(looks), tuple(dict.fromkeys(sources)), disk.free_bytes(place))


def fitting(model: Model, room: int) -> list[Variant]:
    """The other variants that so many bytes are enough for, the largest first."""
    sized = [(variant.size, variant) for variant in model.variants]
    return [variant for size, variant in sorted(sized, key=lambda each: -(each[0] or 0)) if size and size <= room]


def conversion(settings: Settings, model: Model, variant: Variant, mix: str) -> Plan:
    """What `--as` would make, from headers: those that are here, else those of a source that can be read in parts.

    Raises NotFoundError where there is none, and what `remote_checkpoint`, the formats and the plan raise.
    """
    from converters import plan
    from converters.formats import open_checkpoint
    from converters.recipe import Recipe
    from distro import derive
    from distro.inspect.remote import remote_checkpoint

    base, made_by = model.name.rpartition("/")[2], derive.made_by()
    here = Store(settings.home).folder(model.name, variant.name)
    if all(disk.is_file(here / file.path) for file in variant.files) and variant.files:
        path = here / variant.files[0].path if len(variant.files) == 1 else here
        with open_checkpoint(path) as checkpoint:
            return plan.make(checkpoint, Recipe("gguf", mix), base, made_by=made_by)
    with remote_checkpoint(settings, model, variant) as checkpoint:
        return plan.make(checkpoint, Recipe("gguf", mix), base, made_by=made_by)


def _look(
    store: Store,
    model: Model,
    variant: Variant,
    file: File,
    entry: Entry | None,
    place: Path,
    target: Path | None,
    near: list[_Place],
) -> Look:
    proof = strongest(file)
    kind = proof[0] if proof else None
    length = disk.length(place / file.path)
    if length >= 0 and (file.size in (None, length)):
        is_received = entry is not None and entry.size == length and (entry.sha256 == file.sha256 or not file.sha256)
        return Look(file, kind, "here" if is_received else "unproven", arrived=length)
    occupied = store.occupied(model.name, variant.name, file, beside=target)
    to_write = None if file.size is None else max(0, file.size - occupied)
    for name, candidates in near:
        for candidate in candidates(file):
            if size_of(candidate) == file.size is not None:
                return Look(file, kind, "near", name, to_write=to_write)
    arrived = store.received(model.name, variant.name, file, beside=target)
    to_fetch = None if file.size is None else max(0, file.size - arrived)
    return Look(file, kind, "partial" if arrived else "missing", None, arrived, to_fetch, to_write)


def _near(
    settings: Settings, store: Store, model: Model, variant: Variant, target: Path | None, folder: Path | None
) -> Iterator[_Place]:
    """Places on this machine that may have it, in the order in which `fetch` asks them."""
    if folder is not None:
        yield f"folder {folder}", lambda file: [folder / file.path]
    if target is not None:
        ours = store.folder(model.name, variant.name)
        yield "our store", lambda file: [ours / file.path]
    for cache in caches_of(settings):
        yield cache.tool, cache.candidates


def _received(store: Store, model: Model, variant: Variant) -> dict[str, Entry]:
    with suppress(MalformedManifestError):
        receipt = store.receipt(model.name, variant.name)
        return dict(receipt.files) if receipt else {}
    return {}


def _sum(values: list[int | None]) -> int | None:
    """The sum; None if one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
