"""`distro verify --rebuild`: repeat the conversion that made a file, and compare every byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distro.cli import console

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.reference import Reference


def rebuild(session: Session, reference: Reference, source: str | None, imatrix: Path | None, *, as_json: bool) -> None:
    """Print what was repeated; WrongBytesError names the first byte that differs."""
    from converters.imatrix import read
    from distro import rebuild as rebuilding
    from distro.lookup import local_path, stored
    from distro.reference import PathReference
    from distro.store import Store

    store = Store(session.settings.home)
    if isinstance(reference, PathReference):
        derivation = rebuilding.of_path(reference.path)
    else:
        derivation = rebuilding.of_variant(store, stored(session.settings, reference).receipt)
    origin = local_path(session.settings, source) if source else rebuilding.find_source(store, derivation)
    weighing = None if imatrix is None else read(imatrix)
    plan = rebuilding.rebuild(derivation, origin, weighing, threads=os.cpu_count() or 1, progress=session.progress)
    if as_json:
        console.result_json(
            {
                "schema": "distro-rebuild/1",
                "path": str(derivation.path),
                "source": str(origin),
                "recipe": plan.recipe.canonical(),
                "inputs": dict(derivation.inputs),
                "size": plan.size,
                "equal": True,
            }
        )
        return
    made_by = f", made by {derivation.made_by}" if derivation.made_by else ""
    console.result(f"{derivation.path}: the same {plan.size} bytes again out of {origin}{made_by}")
