"""Which published file some bytes are: a file of the user's own, looked up by digest in manifests and checklists."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from converters import checklist
from distro import catalog
from distro.catalog import Catalog
from distro.config import Settings
from distro.digest import KINDS, open_regular
from distro.disk import files_below
from distro.errors import NotFoundError
from distro.manifest import File
from distro.progress import Progress
from distro.proof.proofs import Proofs, Remembered, Stamp
from distro.proof.prove import Claim, How, Proof, Shared, read_digests
from distro.proof.verification import Finding
from distro.verify import Status, Verdict, check, judge

# Only these are named after what they hold; every other model has a `model.safetensors` too.
_TELLING_SUFFIXES = (".gguf", ".tar")


@dataclass(frozen=True)
class Known:
    """A file of a manifest, and the variant (`llama-13b:pth`) that it belongs to; of a checklist, that one's name."""

    variant: str
    file: File


def known_files(catalog: Catalog) -> list[Known]:
    """Every file of every manifest. Raises MalformedManifestError."""
    return [
        Known(f"{model.name}:{variant.name}", file)
        for _, model in catalog.models()
        for variant in model.variants
        for file in variant.files
    ]


def listed_files(path: Path) -> dict[Path, Known]:
    """What the checklists of Meta's releases say: of a file by those beside it, of a folder's files by all below it.

    Files that are listed and not there are among them. Raises MalformedError for a checklist that is none.
    """
    folders = {file.parent for file in files_below(path) if file.name in checklist.NAMES}
    found = {
        folder / name: Known(where.name, File(name, md5=md5))
        for folder in sorted(folders if path.is_dir() else {path.parent})
        for where in checklist.find(folder)
        for name, md5 in checklist.read(where).items()
    }
    return found if path.is_dir() else {file: known for file, known in found.items() if file == path}


def look_up(settings: Settings, path: Path, *, full: bool, progress: Progress) -> list[Finding]:
    """Files of the user's own, by their bytes. Raises NotFoundError where nobody knows any of them."""
    known, listed = known_files(catalog.load(settings)), listed_files(path)
    files, proofs = list(files_below(path)), Proofs(settings.state_folder)
    with (
        progress.bar(f"verify {path.name}", sum(file.stat().st_size for file in files)) as bar,
        ThreadPoolExecutor() as pool,
    ):
        told = Shared(bar)
        try:
            answers = [
                pool.submit(_identified, file, known, listed.get(file), None if full else proofs, told)
                for file in files
            ]
            found = [answer.result() for answer in answers]
        except BaseException:
            told.stop()
            pool.shutdown(cancel_futures=True)
            raise
    proofs.remember(each.memory for each in found if each.memory is not None)
    findings = []
    for file, each in zip(files, found, strict=True):
        listed.pop(file, None)
        by = ", ".join(dict.fromkeys(place.variant for place in each.places))
        claim = Claim(file, each.places[0].file) if each.places else None
        findings.append(Finding(_name(file, path), Proof(each.verdict, each.how, each.proven_at), by, claim))
    for file, entry in listed.items():
        missing = Proof(Verdict(file, Status.MISSING))
        findings.append(Finding(_name(file, path), missing, entry.variant, Claim(file, entry.file)))
    if not any(each.by for each in findings):
        raise NotFoundError(f"{path}: no manifest and no receipt knows these bytes, so nothing can be proven")
    return findings


def _identified(file: Path, known: list[Known], entry: Known | None, proofs: Proofs | None, told: Shared) -> Identified:
    found = identify(file, known if entry is None else [*known, entry], told, proofs)
    if entry is not None and found.verdict.status is Status.UNPROVEN:
        return Identified(check(file, entry.file), [entry])
    return found


def _name(file: Path, path: Path) -> str:
    return str(file.relative_to(path)) if file != path else file.name


@dataclass(frozen=True)
class Identified:
    """What a file is. places: every place in the manifests that has these bytes. memory: what is to be remembered.

    how, proven_at: as of `distro.proof.prove.Proof`.
    """

    verdict: Verdict
    places: Sequence[Known] = ()
    how: How = How.READ
    proven_at: datetime | None = None
    memory: Remembered | None = None


def identify(path: Path, known: Sequence[Known], bar: Shared, proofs: Proofs | None = None) -> Identified:
    """What a file is, over one read; over none where its digests are remembered by `proofs`.

    UNPROVEN where no manifest knows its bytes; WRONG where the file bears the telling name of one file and is not it.
    Raises OSError.
    """
    with open_regular(path) as stream:
        stamp, read_ns = Stamp.of(os.fstat(stream.fileno())), time.time_ns()
        candidates = [each for each in known if each.file.size in (None, stamp.size)]
        wanted = {kind for each in candidates for kind in KINDS if getattr(each.file, kind)}
        before = proofs.find(path, stamp) if proofs is not None else None
        how, proven_at, memory = How.READ, None, None
        if before is not None and wanted and wanted <= before.digests.keys():
            found, how, proven_at = before.digests, How.REMEMBERED, before.proven_at
            bar.advance(stamp.size)
        else:
            found = read_digests(stream, wanted, stamp.size, bar.advance)[0] if wanted else {}
            if Stamp.of(os.fstat(stream.fileno())) == stamp and found:
                memory = Remembered(str(path.absolute()), stamp, read_ns, found)
    for kind in (kind for kind in KINDS if kind in found):
        same = [each for each in candidates if getattr(each.file, kind) == found[kind]]
        if same:
            return Identified(judge(path, kind, found[kind], found[kind]), same, how, proven_at, memory)
    claimed = [each for each in known if each.file.path.rpartition("/")[2] == path.name]
    if len(claimed) == 1 and path.name.endswith(_TELLING_SUFFIXES):
        return Identified(check(path, claimed[0].file), claimed)
    return Identified(Verdict(path, Status.UNPROVEN))
