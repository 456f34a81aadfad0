"""`distro fetch`: bring a model here, proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converters.errors import shown
from distro.cli import console
from distro.errors import UsageError

if TYPE_CHECKING:
    from distro.catalog import Resolved
    from distro.cli import Session

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
    only: Annotated[str | None, typer.Option("--only", metavar="GLOB", help="Only files such as '*.json'.")] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="Ask this peer too; may be repeated.")
    ] = None,
    allow_sha1: Annotated[
        bool, typer.Option("--allow-sha1", help="Take a torrent that SHA-1 alone proves, which can be forged.")
    ] = False,
    as_type: Annotated[
        str, typer.Option("--as", metavar="TYPE", help="Convert it while it arrives: q8_0, q4_k_m … as for convert.")
    ] = "",
    discard_source: Annotated[
        bool, typer.Option("--discard-source", help="With --as: free each shard as soon as it is converted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Get a model from its sources, prove every byte, and print where it is."""
    if discard_source and not as_type:
        raise UsageError("--discard-source: only what is converted, with --as TYPE, may go")
    if as_type and only is not None:
        raise UsageError("--only: what is converted, with --as, needs all of its files")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--from {shown(str(folder))}: no such folder")

    from distro.fetch import fetch as bring
    from distro.lookup import wanted

    session: Session = context.obj
    peers = _peers(peer or [])
    resolved = wanted(session.settings, reference, peers, allow_sha1=allow_sha1, progress=session.progress)
    if not session.quiet:
        console.say(_described(resolved))
    if as_type:
        from distro.fetch_as import fetch_as

        made = fetch_as(
            session.settings, resolved, as_type, target=output, folder=folder, peers=peers,
            discard_source=discard_source, progress=session.progress,
        )  # fmt: skip
        for line in made.verdict.lines() if made.verdict else ["logits were not compared, as the source is discarded"]:
            console.say(line)
        path = made.path
    else:
        path = bring(
            session.settings, resolved.model, resolved.variant,
            progress=session.progress, only=only, target=output, folder=folder, peers=peers,
        )  # fmt: skip
    if as_json:
        model, variant = resolved.model.name, resolved.variant.name
        console.result_json({"schema": "distro-fetch/1", "model": model, "variant": variant, "path": str(path)})
    else:
        console.result(str(path))


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
