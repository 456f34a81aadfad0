"""`distro torrent`: a torrent of a model, the same for everybody who has the same files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.errors import shown
from distro.cli import console

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.swarm.torrent import Torrent


def torrent(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model that is here, a file or a folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to put it (default: NAME.torrent, here).")
    ] = None,
    v1: Annotated[
        bool, typer.Option("--v1", help="Write the v1 companion, for clients that cannot read hybrids.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="For named peers and trackers only; another infohash.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a torrent that depends on the content alone: same files, same infohash, whoever makes it."""
    from distro.offer import offer
    from distro.store import Store
    from distro.swarm.make import make

    session: Session = context.obj
    store = Store(session.settings.home)
    offered = offer(session.settings, reference)
    target = output or Path(f"{offered.label}.torrent")
    store.refuse_inside(target)
    made = make(offered.path, only=offered.names, progress=session.progress)
    if private:
        made = made.as_private()
    if v1:
        made = made.v1_companion()
    data = made.encode()
    with store.result(target.absolute(), single_file=True, replace=True) as result:
        result.create(target.name, len(data)).write_at(0, data)
        result.publish()
    if as_json:
        console.result_json({"schema": "distro-torrent/1", "path": str(target), **describe(made, offered.label)})
        return
    size, pieces = console.size(made.size), f"pieces of {made.piece_length // 1024} KiB"
    console.result(
        f"{shown(str(target))}: {len(made.files)} file{'s' if len(made.files) != 1 else ''}, {size}, {pieces}"
    )
    for version, infohash in _infohashes(made).items():
        console.result(f"infohash {version}  {infohash}")
    console.result(made.magnet(offered.label))


def describe(made: Torrent, label: str) -> dict[str, Any]:
    """A torrent for a program; sizes in bytes."""
    return {
        "label": label,
        "name": made.name,
        "infohash": _infohashes(made),
        "size": made.size,
        "piece_length": made.piece_length,
        "private": made.private,
        "files": [{"path": file.path, "size": file.size, "pieces_root": file.pieces_root} for file in made.files],
        "magnet": made.magnet(label),
    }


def _infohashes(made: Torrent) -> dict[str, str]:
    known = {"v1": made.infohash_v1, "v2": made.infohash_v2}
    return {version: infohash for version, infohash in known.items() if infohash is not None}
