"""`distro rm`: give back the space of one variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from converters.errors import shown
from distro.cli import console
from distro.errors import NotFoundError, UsageError
from distro.manifest import File

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.reference import Reference


def rm(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="A variant that is here, or was arriving.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete a variant from the store, and what of it was still arriving."""
    from distro.reference import PathReference, parse_reference
    from distro.store import Store

    session: Session = context.obj
    parsed = parse_reference(reference)
    if isinstance(parsed, PathReference) and parsed.path.suffix != ".toml":
        raise UsageError(f"{shown(reference)}: `distro rm` deletes what is in the store, not files of your own")
    store = Store(session.settings.home)
    model, variant, files, sources = _named(session, parsed)
    waiting = f"{model}:{variant}: another distro is fetching it; waiting"
    with store.lock(model, variant, waiting=lambda: session.progress.say(waiting)):
        freed = store.remove(model, variant, files, sources)
    if as_json:
        console.result_json({"schema": "distro-rm/1", "model": model, "variant": variant, "freed": freed})
    else:
        console.result(f"{model}:{variant}: {console.size(freed)} freed")


def _named(session: Session, reference: Reference) -> tuple[str, str, tuple[File, ...], tuple[str, ...]]:
    """(model, variant, its files, its sources), by the receipt, else by the manifest if something was arriving."""
    from distro import catalog
    from distro.lookup import stored
    from distro.reference import NamedReference
    from distro.store import Store

    try:
        found = stored(session.settings, reference)
    except NotFoundError:
        if not isinstance(reference, NamedReference):
            raise
        resolved = catalog.load(session.settings).resolve(reference)
        model, variant, store = resolved.model.name, resolved.variant, Store(session.settings.home)
        if not any(store.received(model, variant.name, file) for file in variant.files):
            raise
        return model, variant.name, variant.files, variant.sources
    published = found.published.variant(found.receipt.variant) if found.published else None
    files = tuple(File(path, entry.size, sha256=entry.sha256) for path, entry in found.receipt.files.items())
    if published:
        return found.receipt.model, found.receipt.variant, (*files, *published.files), published.sources
    return found.receipt.model, found.receipt.variant, files, ()
