"""`distro fetch`: bring a model here, proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converters.errors import shown
from distro.cli import console
from distro.cli.agreement import agree
from distro.cli.fetch_plan import print_preview
from distro.config import parse_limits
from distro.errors import DiskFullError, UsageError
from distro.manners.choice import Choice
from distro.manners.mirrors import parse_mirrors
from distro.manners.schedule import parse_schedule

if TYPE_CHECKING:
    from distro.catalog import Resolved
    from distro.cli import Session
    from distro.config import Settings

_MOST_NAMED = 3

_KINDS = {"hf": "hub", "index": "package index", "magnet": "torrent", "http": "mirror", "https": "mirror"}


def fetch(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="A model, hf:owner/repo, a magnet link, a .torrent file.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Put the files there instead of into the store.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", help="A folder that may have the files: looked into first.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GLOB", help="Only files such as '*.json'; may be repeated.")
    ] = None,
    but: Annotated[
        list[str] | None, typer.Option("--except", metavar="GLOB", help="No files such as '*.bin'; may be repeated.")
    ] = None,
    mirrors: Annotated[
        list[str] | None,
        typer.Option("--mirror", metavar="URL", help="Ask this mirror too: https://HOST/FOLDER/, hub=https://HOST."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="Ask this peer too; may be repeated.")
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="RATE", help="20MB/s for all together, hub=5MB/s for a kind of source."),
    ] = None,
    hours: Annotated[str, typer.Option("--when", metavar="HOURS", help="Only at these: 01:00-07:00.")] = "",
    allow_sha1: Annotated[
        bool, typer.Option("--allow-sha1", help="Take a torrent that SHA-1 alone proves, which can be forged.")
    ] = False,
    accept_license: Annotated[
        str, typer.Option("--accept-license", metavar="ID", help="Accept the licence of that name.")
    ] = "",
    as_type: Annotated[
        str, typer.Option("--as", metavar="TYPE", help="Convert it while it arrives: q8_0, q4_k_m … as for convert.")
    ] = "",
    discard_source: Annotated[
        bool, typer.Option("--discard-source", help="With --as: free each shard as soon as it is converted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what there is to do, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; what happens meanwhile as events.")] = False,
) -> None:
    """Get a model from its sources, prove every byte, and print where it is."""
    wanted = Choice(tuple(only or ()), tuple(but or ()))
    if discard_source and not as_type:
        raise UsageError("--discard-source: only what is converted, with --as TYPE, may go")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--from {shown(str(folder))}: no such folder")

    from distro import lookup
    from distro.fetching.preview import preview

    session: Session = context.obj
    session.settings = _with_manners(session.settings, limits or [], hours, mirrors or [])
    if as_json and not session.quiet:
        from distro.cli.events import Events

        session.progress = Events()
    peers = _peers(peer or [])
    resolved = lookup.wanted(session.settings, reference, peers, allow_sha1=allow_sha1, progress=session.progress)
    if dry_run:
        found = preview(
            session.settings, resolved.model, resolved.variant, wanted=wanted, target=output, folder=folder
        )  # fmt: skip
        print_preview(session.settings, resolved, found, as_type, as_json=as_json)
        return
    _announce(session, resolved, reference, as_json=as_json)
    agree(session, resolved, accept_license)
    with _room_explained(resolved, output or session.settings.home):
        if as_type:
            path = _converted(session, resolved, as_type, wanted, output, folder, peers, discard_source=discard_source)
        else:
            path = _brought(session, resolved, wanted, output, folder, peers)
    facts = {"schema": "distro-fetch/1", "model": resolved.model.name, "variant": resolved.variant.name}
    if as_json:
        if not session.quiet:
            console.event("done", path=str(path))
        console.result_json({**facts, "path": str(path)})
    else:
        console.result(str(path))


def _brought(
    session: Session,
    resolved: Resolved,
    wanted: Choice,
    output: Path | None,
    folder: Path | None,
    peers: tuple[tuple[str, int], ...],
) -> Path:
    from distro.fetch import fetch as bring

    return bring(
        session.settings, resolved.model, resolved.variant,
        progress=session.progress, wanted=wanted, target=output, folder=folder, peers=peers,
    )  # fmt: skip


def _converted(
    session: Session,
    resolved: Resolved,
    as_type: str,
    wanted: Choice,
    output: Path | None,
    folder: Path | None,
    peers: tuple[tuple[str, int], ...],
    *,
    discard_source: bool,
) -> Path:
    from distro.fetch_as import fetch_as

    made = fetch_as(
        session.settings, resolved, as_type, wanted=wanted, target=output, folder=folder, peers=peers,
        discard_source=discard_source, progress=session.progress,
    )  # fmt: skip
    for line in made.verdict.lines() if made.verdict else ["logits were not compared, as the source is discarded"]:
        session.progress.say(line)
    return made.path


def _with_manners(settings: Settings, limits: list[str], hours: str, mirrors: list[str]) -> Settings:
    """What the flags say instead of the configuration; mirrors of the flags come before its. Raises UsageError."""
    try:
        option = "--limit"
        limited = parse_limits(limits) if limits else settings.limits
        option = "--when"
        schedule = parse_schedule(hours) if hours else settings.schedule
        option = "--mirror"
        named = parse_mirrors(mirrors)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
    known = tuple(dict.fromkeys([*named, *settings.mirrors]))
    return replace(settings, limits=limited, schedule=schedule, mirrors=known)


def _announce(session: Session, resolved: Resolved, reference: str, *, as_json: bool) -> None:
    """What is about to be fetched."""
    if session.quiet:
        return
    if not as_json:
        console.say(_described(resolved))
        return
    from distro.cli.events import SCHEMA

    variant, family = resolved.variant, resolved.family
    console.event(
        "start", schema=SCHEMA, reference=reference, model=resolved.model.name, variant=variant.name, size=variant.size,
        n_files=len(variant.files), license=family.license.id if family else None, sources=list(variant.sources),
    )  # fmt: skip


@contextmanager
def _room_explained(resolved: Resolved, folder: Path) -> Iterator[None]:
    """Where the disk has no room for a model, name the variants of it that would fit."""
    from distro import disk
    from distro.fetching.preview import fitting

    try:
        yield
    except DiskFullError as error:
        fit = fitting(resolved.model, disk.free_bytes(folder))[:_MOST_NAMED]
        if not fit:
            raise
        names = ", ".join(f"{variant.name} ({console.size(variant.size)})" for variant in fit)
        raise DiskFullError(f"{error}; {names} would fit") from error


def _peers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    from distro.swarm.addresses import parse_peer

    try:
        return tuple(map(parse_peer, texts))
    except ValueError as error:
        raise UsageError(f"--peer: {error}") from error


def _described(resolved: Resolved) -> str:
    """`llama-7b:pth → family llama, 2 files, 13.5 GB, licence …, sources: 2 torrents, hub`."""
    variant = resolved.variant
    facts = [f"family {resolved.family.name}"] if resolved.family else []
    facts += [f"{len(variant.files)} file{'s' if len(variant.files) != 1 else ''}", console.size(variant.size)]
    facts += [f"licence {resolved.family.license.id}" if resolved.family else "licence not known here"]
    kinds = Counter(_kind(source) for source in variant.sources)
    sources = [kind if n == 1 else f"{n} {kind}s" for kind, n in kinds.items()]
    return f"{resolved} → {', '.join(facts)}, sources: {', '.join(sources) or 'none'}"


def _kind(source: str) -> str:
    return "torrent" if source.endswith(".torrent") else _KINDS.get(source.partition(":")[0], "other")
