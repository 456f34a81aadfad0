"""`distro verify`: prove again, without the network, that files are the right bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console
from distro.errors import NotFoundError, WrongBytesError
from distro.manifest import File

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.receipt import Receipt
    from distro.reference import Reference
    from distro.verify import Verdict


@dataclass(frozen=True)
class _Finding:
    """A verdict, and what it rests on: the manifest, the receipt, or the variants that have these bytes."""

    name: str
    verdict: Verdict
    by: str


def verify(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model, or files of your own.")],
    folder: Annotated[
        Path | None, typer.Option("--in", help="A folder of your own that is to hold the files of REF.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--rebuild", help="Repeat the conversion that made it, and compare every byte.")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", metavar="REF|PATH", help="What --rebuild starts from, if not in the store.")
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", help="The importance matrix that --rebuild needs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove again, offline, that files are the right bytes."""
    from distro.reference import PathReference, parse_reference
    from distro.verify import Status

    session = context.obj
    parsed = parse_reference(reference)
    if again:
        from distro.cli.rebuild import rebuild

        rebuild(session, parsed, source, imatrix, as_json=as_json)
        return
    if folder is not None:
        title, findings = _check_folder(session, reference, folder)
    elif isinstance(parsed, PathReference) and parsed.path.suffix != ".toml":
        title, findings = reference, _check_path(session, parsed.path)
    else:
        title, findings = _check_stored(session, parsed)

    _show(title, findings, as_json=as_json)
    _raise_for(title, findings)
    if unproven := [each for each in findings if each.verdict.status is Status.UNPROVEN]:
        console.say(f"not proven: {len(unproven)} of {len(findings)} files, as nobody published a digest of them")
    if weak := [each for each in findings if each.verdict.status is Status.WEAK]:
        console.say(f"weak: {len(weak)} of {len(findings)} files agree only with a digest that can be forged")


def _check_stored(session: Session, reference: Reference) -> tuple[str, list[_Finding]]:
    """Every file of a variant in the store, by the manifest where that has a digest, else by the receipt."""
    from distro.lookup import stored
    from distro.verify import strongest

    found = stored(session.settings, reference)
    variant = found.published and found.published.variant(found.receipt.variant)
    published = {file.path: file for file in variant.files} if variant and found.receipt.recipe is None else {}
    findings = []
    for path, entry in found.receipt.files.items():
        file, by = File(path, entry.size, sha256=entry.sha256), "receipt"
        if path in published and strongest(published[path]):
            file, by = published[path], "manifest"
        findings.append(_check(session, found.folder / path, file, by))
    if missing := published.keys() - found.receipt.files.keys():
        session.progress.say(f"{found.name}: {len(missing)} of {len(published)} files were never fetched")
    return found.name, findings


def _check_folder(session: Session, reference: str, folder: Path) -> tuple[str, list[_Finding]]:
    from distro import catalog

    resolved = catalog.load(session.settings).resolve(reference)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    files = resolved.variant.files
    return str(resolved), [_check(session, folder / file.path, file, "manifest") for file in files]


def _check_path(session: Session, path: Path) -> list[_Finding]:
    """Files of the user's own: by the receipt beside them, else looked up in all manifests and Meta's checklists."""
    from distro.receipt import Receipt

    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    receipt = Receipt.read(folder / "receipt.json")
    if receipt is not None and (path == folder or path.name in receipt.files):
        return _check_receipt(session, receipt, folder, None if path == folder else path.name)
    return _look_up(session, path)


def _check_receipt(session: Session, receipt: Receipt, folder: Path, only: str | None) -> list[_Finding]:
    return [
        _check(session, folder / name, File(name, entry.size, sha256=entry.sha256), "receipt")
        for name, entry in receipt.files.items()
        if only in (None, name)
    ]


def _look_up(session: Session, path: Path) -> list[_Finding]:
    from distro import catalog
    from distro.identify import files_below, identify, known_files, listed_files
    from distro.verify import Status, Verdict, check

    known, listed = known_files(catalog.load(session.settings)), listed_files(path)
    findings = []
    for file in files_below(path):
        entry = listed.pop(file, None)
        with session.progress.bar(file.name, file.stat().st_size) as bar:
            verdict, places = identify(file, known if entry is None else [*known, entry], bar)
        if entry is not None and verdict.status is Status.UNPROVEN:
            verdict, places = check(file, entry.file), [entry]
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        findings.append(_Finding(name, verdict, ", ".join(dict.fromkeys(place.variant for place in places))))
    findings += [
        _Finding(str(file.relative_to(path)), Verdict(file, Status.MISSING), entry.variant)
        for file, entry in listed.items()
    ]
    if not any(each.by for each in findings):
        raise NotFoundError(f"{path}: no manifest and no receipt knows these bytes, so nothing can be proven")
    return findings


def _check(session: Session, path: Path, file: File, by: str) -> _Finding:
    from distro.verify import check

    with session.progress.bar(file.path, file.size) as bar:
        return _Finding(file.path, check(path, file, bar), by)


def _show(title: str, findings: Sequence[_Finding], *, as_json: bool) -> None:
    if as_json:
        console.result_json(
            {
                "schema": "distro-verify/1",
                "reference": title,
                "files": [
                    {
                        "path": each.name,
                        "status": each.verdict.status.value,
                        "kind": each.verdict.kind,
                        "found": each.verdict.found,
                        "expected": each.verdict.expected,
                        "by": each.by or None,
                    }
                    for each in findings
                ],
            }
        )
        return
    rows = [[each.verdict.status.value, each.name, _proof(each.verdict), each.by or "-"] for each in findings]
    console.table(["verdict", "file", "proof", "by"], rows)


def _proof(verdict: Verdict) -> str:
    if verdict.kind is None:
        return "-"
    return f"{verdict.kind}:{verdict.found}" if verdict.kind != "size" else f"size {verdict.found}"


def _raise_for(title: str, findings: Sequence[_Finding]) -> None:
    """Raise WrongBytesError for the first wrong file, NotFoundError if some are missing."""
    from distro.verify import Status

    for each in findings:
        if each.verdict.status is Status.WRONG:
            kind, found, expected = each.verdict.kind, each.verdict.found, each.verdict.expected
            raise WrongBytesError(each.verdict.path, kind or "", found or "", expected or "")
    if missing := [each.name for each in findings if each.verdict.status is Status.MISSING]:
        raise NotFoundError(f"{title}: {len(missing)} of {len(findings)} files are missing, the first {missing[0]}")
