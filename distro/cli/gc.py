"""`distro gc`: give back the space of what never finished arriving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console

if TYPE_CHECKING:
    from distro.cli import Session


def gc(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete partial files that no running distro is writing; complete models stay."""
    from distro.store import Store

    session: Session = context.obj
    freed = Store(session.settings.home).collect()
    if as_json:
        console.result_json({"schema": "distro-gc/1", "freed": freed})
    else:
        console.result(f"{console.size(freed)} freed")
