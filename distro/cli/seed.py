"""`distro seed`: share models that are here, as torrents, until told to stop."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from converters.errors import shown
from distro.cli import console
from distro.cli.quantity import parse_rate
from distro.errors import NotFoundError, UsageError, WrongBytesError
from distro.reference import TorrentReference

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.offer import Offer
    from distro.swarm.seeder import Share
    from distro.swarm.torrent import Torrent


def seed(
    context: typer.Context,
    references: Annotated[
        list[str], typer.Argument(metavar="REF|PATH…", help="Models that are here, files, folders, .torrent files.")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")] = 0,
    interface: Annotated[
        str, typer.Option("--interface", help="Address to listen on; 127.0.0.1 stays on this machine.")
    ] = "0.0.0.0",  # noqa: S104  a seeder is there for everybody
    trackers: Annotated[
        list[str] | None, typer.Option("--tracker", metavar="URL", help="Announce there; may be given several times.")
    ] = None,
    dht: Annotated[
        bool, typer.Option("--dht", help="Announce to the DHT, where everybody sees what you have.")
    ] = False,
    limit: Annotated[
        str, typer.Option("--limit", metavar="RATE", help="For each torrent, such as 20MB/s (default: none).")
    ] = "",
    ratio: Annotated[
        float | None, typer.Option("--ratio", min=0.0, help="Stop a torrent after so many times its size.")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=0.0, help="Stop after so long.")
    ] = None,
    has_right: Annotated[
        bool,
        typer.Option(
            "--i-have-the-right", help="Share, privately, what its licence or publisher does not let all share."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Share models as torrents. Prints a line for each when it is ready, and goes on until Ctrl-C."""
    from distro.offer import offer, verify
    from distro.swarm.seeder import Manners
    from distro.swarm.seeder import seed as serve

    session: Session = context.obj
    manners = Manners(interface, port, tuple(trackers or ()), dht, parse_rate(limit), ratio, duration_s)
    offers = [offer(session.settings, reference) for reference in dict.fromkeys(references)]
    for offered in offers:
        _judge_right(session, offered, has_right=has_right, dht=dht)
    shares = []
    for offered in offers:
        verify(offered, session.progress)
        shares.append(_share(session, offered))
    with _told_to_stop() as stop:
        served = serve(
            shares, manners, stop=stop, progress=session.progress,
            ready=lambda share, peer: _print_ready(share, peer, manners.trackers, as_json=as_json),
        )  # fmt: skip
    for each in served:
        session.progress.say(f"{each.label}: {console.size(each.uploaded)} sent")
    for each in served:
        if each.trouble is not None:
            raise each.trouble


def _judge_right(session: Session, offered: Offer, *, has_right: bool, dht: bool) -> None:
    """Raise UsageError for what may not be passed on, unless the user has a right to, and then for the DHT."""
    if offered.restriction is None:
        if offered.license and offered.license.redistribution == "conditions":
            session.progress.say(f"{offered.label}: {offered.license.id} sets conditions: {offered.license.url}")
        return
    if not has_right:
        raise UsageError(f"{shown(offered.label)}: {offered.restriction}; --i-have-the-right shares it privately")
    if dht:
        raise UsageError(f"{shown(offered.label)}: {offered.restriction}, so it is never announced to the DHT")


def _share(session: Session, offered: Offer) -> Share:
    """The torrent that others know the files by: the one that was given, or the one that they make of themselves."""
    from distro.swarm.make import make, model_files
    from distro.swarm.seeder import Share
    from distro.swarm.torrent import read

    files = model_files(offered.path, offered.names)
    if isinstance(offered.reference, TorrentReference):
        torrent = read(Path(offered.reference.location))
        _judge_files(torrent, files, offered.reference.location)
        for line in torrent.dropped:
            session.progress.say(line)
        return Share(offered.label, torrent, files)
    made = make(offered.path, only=offered.names, progress=session.progress)
    if not offered.infohash:
        return Share(offered.label, made if offered.restriction is None else made.as_private(), files)
    # What came by torrent goes back to the same swarm, and to no wider one.
    same = [each for each in (made, made.as_private()) if each.infohash.startswith(offered.infohash)]
    if not same:
        raise UsageError(f"{offered.label}: its torrent was made by other means; name its .torrent file instead")
    return Share(offered.label, same[0], files)


def _judge_files(torrent: Torrent, files: Mapping[str, Path], where: str) -> None:
    """Raise WrongBytesError or NotFoundError unless the files can be what the torrent says."""
    for file in torrent.files:
        if file.path not in files:
            raise NotFoundError(f"{shown(where)}: {shown(file.path)} is not here; fetch all of it first")
        if (size := files[file.path].stat().st_size) != file.size:
            raise WrongBytesError(files[file.path], "size", f"{size} bytes", f"{file.size} bytes")


def _print_ready(share: Share, peer: str, trackers: tuple[str, ...], *, as_json: bool) -> None:
    from distro.cli.torrent import describe

    announced = replace(share.torrent, trackers=(*share.torrent.trackers, *trackers))
    if as_json:
        ready = {"schema": "distro-seed/1", **describe(announced, share.label), "peer": peer}
        console.result(json.dumps(ready, ensure_ascii=False))
    else:
        console.result(f"seeding {shown(share.label)} at {peer}: {announced.magnet(share.label)}")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM, which end a seeder as it should end; the second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
