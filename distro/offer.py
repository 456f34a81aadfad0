"""What `torrent` and `seed` take: a model in the store or a path, and whether it may be passed on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import shown
from distro import catalog
from distro.config import Settings
from distro.errors import NotFoundError, WrongBytesError
from distro.lookup import Stored, local, stored
from distro.manifest import File, License, Model
from distro.progress import Progress
from distro.receipt import Receipt
from distro.reference import NamedReference, PathReference, Reference, parse_reference
from distro.store import Store
from distro.verify import Status, check


@dataclass(frozen=True)
class Offer:
    """Files to share. names: those of the folder that count, None for all that belong to a model.

    label: for people and file names. receipt: what the files are to be, None for a path of the user's own.
    restriction: why they may not be passed on without a right to, None where nothing speaks against it.
    license: None where nobody wrote one down.
    """

    path: Path
    label: str
    reference: Reference
    receipt: Receipt | None = None
    license: License | None = None
    restriction: str | None = None

    @property
    def infohash(self) -> str:
        """How the infohash begins of the torrent that it came from; empty if it came otherwise."""
        kind, _, infohash = (self.receipt.model if self.receipt else "").partition("-")
        return infohash if kind == "torrent" else ""

    @property
    def names(self) -> tuple[str, ...] | None:
        return None if self.receipt is None else tuple(self.receipt.files)


def offer(settings: Settings, text: str) -> Offer:
    """Raises NotFoundError, UsageError; for a torrent as reference its files in the store."""
    reference = parse_reference(text)
    found = _in_store(settings, reference, text)
    if found is None:
        path = local(settings, text).path
        return Offer(path, path.resolve().name, reference)
    license_, restriction = _rights(settings, found)
    label = f"{found.receipt.model}-{found.receipt.variant}".replace("/", "--")
    return Offer(found.folder, label, reference, found.receipt, license_, restriction)


def verify(offered: Offer, progress: Progress) -> None:
    """Prove the files of the store by their receipt. Raises NotFoundError, WrongBytesError."""
    if offered.receipt is None:
        return
    with progress.bar(f"verifying {offered.label}", offered.receipt.size) as bar:
        for name, entry in offered.receipt.files.items():
            verdict = check(offered.path / name, File(name, entry.size, entry.sha256), bar)
            if verdict.status == Status.MISSING:
                raise NotFoundError(f"{shown(str(verdict.path))}: not here any more")
            if not verdict.is_right:
                raise WrongBytesError(
                    verdict.path, verdict.kind or "file", verdict.found or "?", verdict.expected or "?"
                )


def _in_store(settings: Settings, reference: Reference, text: str) -> Stored | None:
    """The variant that is meant; a path into the store means the variant that lies there."""
    if not isinstance(reference, PathReference) or reference.path.suffix == ".toml":
        try:
            return stored(settings, reference)
        except NotFoundError:
            if Path(text).exists() and not text.endswith(".torrent"):
                return None
            raise
    store = Store(settings.home)
    path = Path(os.path.realpath(reference.path))  # resolve() minds a link to itself
    for model, variant in store.variants():
        if path.is_relative_to(store.folder(model, variant).resolve()):
            return stored(settings, NamedReference(model, variant))
    return None


def _rights(settings: Settings, found: Stored) -> tuple[License | None, str | None]:
    """(the licence, what speaks against passing it on)"""
    model = found.receipt.model
    if found.published is None:
        # What came from a swarm goes back to that swarm; a repository may have been opened by a token.
        unknown = None if model.startswith("torrent-") else "nobody wrote down whether it may be passed on"
        return None, unknown
    family, _ = catalog.load(settings).find(model)
    if family.license.redistribution == "forbidden":
        return family.license, f"its licence, {shown(family.license.id)}, forbids passing it on"
    store = Store(settings.home)
    here = [store.receipt(model, name) for each, name in store.variants() if each == model]
    gated = _is_gated(found.published, found.receipt, [each for each in here if each])
    return family.license, "its publisher gives it only to those who agree to terms" if gated else None


def _is_gated(published: Model, receipt: Receipt, here: Sequence[Receipt]) -> bool:
    """Of a published variant what its manifest says; what was made here is as gated as what it was made from.

    here: receipts of the model's variants. Inputs are found by digest among published files and these; one that is
    found nowhere may have come from any variant. An input that is had without terms in one place needs none.
    """
    if declared := published.variant(receipt.variant):
        return declared.gated
    others = [each for each in here if each.variant != receipt.variant]
    anywhere = any(variant.gated for variant in published.variants)

    def is_gated_input(sha256: str) -> bool:
        ways = [variant.gated for variant in published.variants if any(file.sha256 == sha256 for file in variant.files)]
        ways += [
            _is_gated(published, each, others)
            for each in others
            if any(entry.sha256 == sha256 for entry in each.files.values())
        ]
        return all(ways) if ways else anywhere

    return any(map(is_gated_input, receipt.inputs.values())) if receipt.inputs else anywhere
