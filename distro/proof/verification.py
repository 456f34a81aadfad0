"""What `distro verify` does: which files there ought to be, by whom that is said, and what they are worth.

a reference        the files of a variant in the store, by its manifest where that has digests, else by its receipt
--in FOLDER        the files of a variant in a folder of the user's own, by the manifest
PATH with receipt  by the receipt that lies beside it
any other PATH     looked up by their bytes in all manifests, and in Meta's checklists
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distro import catalog
from distro.config import Settings
from distro.errors import CannotCreateError, DistroError, NotFoundError
from distro.lookup import stored
from distro.manifest import File, Model, Variant
from distro.progress import Progress
from distro.proof.piece_hashes import PieceHashes, find_list
from distro.proof.proofs import Proofs
from distro.proof.prove import Claim, How, Proof, Prover
from distro.receipt import Entry, Receipt
from distro.reference import Reference
from distro.store import Store
from distro.verify import Verdict, strongest


@dataclass(frozen=True)
class Finding:
    """One file. name: in its variant. by: the manifest, the receipt, or the variants that have these bytes.

    file: what it ought to be, None where nobody says.
    """

    name: str
    proof: Proof
    by: str
    claim: Claim | None = None

    @property
    def verdict(self) -> Verdict:
        return self.proof.verdict


@dataclass(frozen=True)
class Subject:
    """Files that are to be something. title: for people. folder: below which they lie.

    claims: name, who says it, and what. model, variant: for sources that have them; None where nobody is known to.
    receipt: of the store, which is ours. n_absent: files of the variant that were never fetched.
    """

    title: str
    folder: Path
    claims: Sequence[tuple[str, str, Claim]]
    model: Model | None = None
    variant: Variant | None = None
    receipt: Receipt | None = None
    n_absent: int = 0


def in_store(settings: Settings, reference: Reference) -> Subject:
    """Raises NotFoundError for what is not in the store."""
    found = stored(settings, reference)
    receipt, folder = found.receipt, found.folder
    published = found.published.variant(receipt.variant) if found.published and receipt.recipe is None else None
    files = {file.path: file for file in published.files} if published else {}
    claims = []
    for path, entry in receipt.files.items():
        file, by = _by_receipt(path, entry), "receipt"
        if path in files and strongest(files[path]):
            file, by = files[path], "manifest"
        pieces = find_list(folder, entry.pieces, entry.sha256, entry.size)
        claims.append((path, by, Claim(folder / path, file, pieces, wants_list=True)))
    model, variant = receipt.as_variant()
    if published is not None and found.published is not None:
        model, variant = found.published, replace(published, sources=published.sources or receipt.sources)
    return Subject(found.name, folder, claims, model, variant, receipt, len(files.keys() - receipt.files.keys()))


def in_folder(settings: Settings, reference: Reference, folder: Path) -> Subject:
    """Raises NotFoundError for an unknown name or folder."""
    resolved = catalog.load(settings).resolve(reference)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    beside = Receipt.read(folder / "receipt.json")
    entries = beside.files if beside else {}
    claims = []
    for file in resolved.variant.files:
        entry = entries.get(file.path)
        pieces = find_list(folder, entry.pieces, entry.sha256, entry.size) if entry else None
        claims.append((file.path, "manifest", Claim(folder / file.path, file, pieces)))
    return Subject(str(resolved), folder, claims, resolved.model, resolved.variant)


def by_receipt(settings: Settings, path: Path) -> Subject | None:
    """What the receipt beside a path says of it; None where there is none. Raises NotFoundError for no path."""
    if not path.exists() and not (path.parent / "receipt.json").exists():
        raise NotFoundError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    receipt = Receipt.read(folder / "receipt.json")
    if receipt is None or (path != folder and path.name not in receipt.files):
        if not path.exists():
            raise NotFoundError(f"{path}: no such file or folder")
        return None
    claims = [
        (
            name,
            "receipt",
            Claim(folder / name, _by_receipt(name, entry), find_list(folder, entry.pieces, entry.sha256, entry.size)),
        )
        for name, entry in receipt.files.items()
        if path == folder or name == path.name
    ]
    model, variant = _published(settings, receipt) or _without_sources(receipt)
    return Subject(str(path), folder, claims, model, variant)


def _without_sources(receipt: Receipt) -> tuple[Model, Variant]:
    """Anybody may have written a receipt that lies somewhere; nobody is asked because it says so."""
    model, variant = receipt.as_variant()
    return model, replace(variant, sources=())


def _by_receipt(path: str, entry: Entry) -> File:
    return File(path, entry.size, sha256=entry.sha256)


def _published(settings: Settings, receipt: Receipt) -> tuple[Model, Variant] | None:
    """What manifests know of a receipt's variant."""
    try:
        _, model = catalog.load(settings).find(receipt.model)
    except NotFoundError:
        return None
    variant = model.variant(receipt.variant)
    return None if variant is None else (model, variant)


def verify(
    settings: Settings, subject: Subject, *, full: bool, to_mend: bool = False, progress: Progress
) -> list[Finding]:
    """The verdicts, in the order of the claims. What was proven is remembered, and so are new lists of piece hashes.

    full: rely on nothing that was proven before. to_mend: as `Prover` has it. Raises OSError for what cannot be read.
    """
    prover = Prover(Proofs(settings.state_folder), full=full, to_mend=to_mend)
    claims = [claim for _, _, claim in subject.claims]
    with progress.bar(f"verify {subject.title}", sum(claim.file.size or 0 for claim in claims)) as bar:
        proofs = prover.prove(claims, bar)
    findings = [
        Finding(name, proof, by, claim) for (name, by, claim), proof in zip(subject.claims, proofs, strict=True)
    ]
    keep(settings, subject, findings)
    return findings


def keep(settings: Settings, subject: Subject, findings: Sequence[Finding]) -> None:
    """Put the lists of piece hashes that were made beside the receipt of a variant of the store.

    Without a word where that cannot be: they save time, and bytes after damage.
    """
    made = {each.name: each.proof.pieces for each in findings if each.proof.pieces is not None}
    store, receipt = Store(settings.home), subject.receipt
    if not made or receipt is None:
        return
    try:
        with store.lock(receipt.model, receipt.variant, waiting=_give_up):
            now = store.receipt(receipt.model, receipt.variant)
            if now is None:
                return
            entries, folder = now.files, store.folder(receipt.model, receipt.variant)
            fit = {name: each for name, each in made.items() if name in entries and entries[name].sha256 == each.sha256}
            if all(_has_list(folder, entries[name], each) for name, each in fit.items()):
                return
            files = {name: replace(entries[name], pieces=each.digest) for name, each in fit.items()}
            store.write_receipt(replace(now, files={**entries, **files}), fit.values())
    except DistroError:
        pass


def _has_list(folder: Path, entry: Entry, pieces: PieceHashes) -> bool:
    return find_list(folder, entry.pieces, entry.sha256, entry.size) == pieces


def _give_up() -> None:
    raise CannotCreateError("another distro is fetching this")


def relied_on(findings: Sequence[Finding]) -> list[Finding]:
    """Those whose files were not read now."""
    return [each for each in findings if each.proof.how is How.REMEMBERED]
