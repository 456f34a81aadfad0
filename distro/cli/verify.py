"""`distro verify`: prove again, without the network, that files are the right bytes; --repair mends what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converters.errors import shown
from distro.cli import console
from distro.errors import NotFoundError, UsageError, WrongBytesError

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.errors import DistroError
    from distro.proof.repair import Outcome, Repaired
    from distro.proof.verification import Finding, Subject
    from distro.reference import Reference
    from distro.verify import Verdict


def verify(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model, or files of your own.")],
    folder: Annotated[
        Path | None, typer.Option("--in", help="A folder of your own that is to hold the files of REF.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything again, also what was proven within a day and is unchanged.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Fetch what is wrong again, the bad pieces alone where their hashes are known."),
    ] = False,
    torrent: Annotated[
        Path | None, typer.Option("--torrent", metavar="FILE", help="A .torrent whose piece hashes --repair may use.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="Ask this peer, with --repair.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--rebuild", help="Repeat the conversion that made it, and compare every byte.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="REF|PATH",
            help="What --rebuild starts from, if not in the store; a folder that --repair may take bytes from.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", help="The importance matrix that --rebuild needs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove again, offline, that files are the right bytes.

    What was proven within a day, and is unchanged since, is not read again unless --full says so.
    """
    from distro.proof import verification
    from distro.reference import parse_reference

    session: Session = context.obj
    if again and repair:
        raise UsageError("--rebuild and --repair: one at a time")
    if not repair and (torrent is not None or peer):
        raise UsageError("--torrent and --peer: only --repair asks anybody for bytes")
    parsed = parse_reference(reference)
    if again:
        from distro.cli.rebuild import rebuild

        rebuild(session, parsed, source, imatrix, as_json=as_json)
        return
    repaired: Sequence[Repaired] | None = None
    failure: DistroError | None = None
    subject = _subject(session, parsed, folder)
    if subject is None:
        path = Path(reference)
        if repair:
            raise UsageError(f"{shown(reference)}: --repair needs a name for what it is to be: REF --in FOLDER")
        from distro.proof.identify import look_up

        findings = look_up(session.settings, path, full=full, progress=session.progress)
        title = reference
    else:
        title = subject.title
        findings = verification.verify(session.settings, subject, full=full, to_mend=repair, progress=session.progress)
        if subject.n_absent:
            n_files = subject.n_absent + len(findings)
            session.progress.say(f"{title}: {subject.n_absent} of {n_files} files were never fetched")
        if repair:
            outcome = _repair(session, subject, findings, source, torrent, peer or [])
            findings, repaired, failure = outcome.findings, outcome.repaired, outcome.failure

    _show(title, findings, repaired, as_json=as_json)
    if failure is not None:
        raise failure
    _raise_for(title, findings)
    _say_what_it_is_worth(findings)


def _subject(session: Session, reference: Reference, folder: Path | None) -> Subject | None:
    """What is to be verified; None for files that only their bytes can name."""
    from distro.proof import verification
    from distro.reference import PathReference

    if folder is not None:
        return verification.in_folder(session.settings, reference, folder)
    if isinstance(reference, PathReference) and reference.path.suffix != ".toml":
        return verification.by_receipt(session.settings, reference.path)
    return verification.in_store(session.settings, reference)


def _repair(
    session: Session,
    subject: Subject,
    findings: Sequence[Finding],
    source: str | None,
    torrent: Path | None,
    peers: Sequence[str],
) -> Outcome:
    from distro.proof.repair import Helpers, repair
    from distro.swarm.addresses import parse_peer

    folder = Path(source) if source else None
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--from {shown(str(folder))}: no such folder")
    try:
        helpers = Helpers(folder, torrent, [parse_peer(text) for text in peers])
    except ValueError as error:
        raise UsageError(f"--peer: {error}") from error
    return repair(session.settings, subject, findings, helpers, progress=session.progress)


def _show(title: str, findings: Sequence[Finding], repaired: Sequence[Repaired] | None, *, as_json: bool) -> None:
    if as_json:
        told: dict[str, object] = {
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
                    "how": each.proof.how.value,
                    "proven_at": each.proof.proven_at and each.proof.proven_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                for each in findings
            ],
        }
        if repaired is not None:
            told["repaired"] = [
                {
                    "path": each.name,
                    "wrong_pieces": each.n_wrong,
                    "pieces": each.n_pieces,
                    "fetched": each.fetched,
                    "sources": list(each.sources),
                }
                for each in repaired
            ]
        console.result_json(told)
        return
    rows = [[each.verdict.status.value, each.name, _proof(each.verdict), each.by or "-"] for each in findings]
    console.table(["verdict", "file", "proof", "by"], rows)


def _proof(verdict: Verdict) -> str:
    if verdict.kind is None:
        return "-"
    return f"{verdict.kind}:{verdict.found}" if verdict.kind != "size" else f"size {verdict.found}"


def _raise_for(title: str, findings: Sequence[Finding]) -> None:
    """Raise WrongBytesError for the first wrong file, NotFoundError if some are missing."""
    from distro.verify import Status

    for each in findings:
        if each.verdict.status is Status.WRONG:
            kind, found, expected = each.verdict.kind, each.verdict.found, each.verdict.expected
            raise WrongBytesError(each.verdict.path, kind or "", found or "", expected or "")
    if missing := [each.name for each in findings if each.verdict.status is Status.MISSING]:
        raise NotFoundError(f"{title}: {len(missing)} of {len(findings)} files are missing, the first {missing[0]}")


def _say_what_it_is_worth(findings: Sequence[Finding]) -> None:
    """What a verdict of `ok` does not say by itself."""
    from distro.proof.verification import relied_on
    from distro.verify import Status

    if relied := relied_on(findings):
        oldest = min(each.proof.proven_at for each in relied if each.proof.proven_at is not None)
        when = oldest.strftime("%Y-%m-%d %H:%M UTC")
        which = f"{len(relied)} of {len(findings)} files"
        console.say(f"not read again: {which}, proven {when} or later and unchanged since (--full reads them)")
    if unproven := [each for each in findings if each.verdict.status is Status.UNPROVEN]:
        console.say(f"not proven: {len(unproven)} of {len(findings)} files, as nobody published a digest of them")
    if weak := [each for each in findings if each.verdict.status is Status.WEAK]:
        console.say(f"weak: {len(weak)} of {len(findings)} files agree only with a digest that can be forged")
