"""`distro show`: the card of one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console
from distro.errors import UsageError

if TYPE_CHECKING:
    from distro.catalog import Resolved
    from distro.cli import Session
    from distro.manifest import File, Model, Variant


@dataclass(frozen=True)
class _Line:
    """A variant as the card lists it. size, estimate: bytes. proof: strong, weak, none, or mixed over its files."""

    name: str
    format: str
    size: int | None
    estimate: int | None  # where nobody published the size: weights times the bits of their type
    proof: str
    is_here: bool
    made_here: bool = False


def show(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="A model or a variant of it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model is: licence, files, sources, digests, and what fits into this machine's memory."""
    from distro import memory

    session = context.obj
    resolved = _resolved(session, reference)
    lines = _lines(session, resolved)
    total = memory.total_bytes()
    if as_json:
        console.result_json(_described(resolved, lines, total))
    else:
        _print_card(resolved, lines, total)


def _resolved(session: Session, text: str) -> Resolved:
    """From the manifests, or for the hub and torrents made on the spot."""
    from distro import catalog
    from distro.reference import HubReference, PathReference, TorrentReference, parse_reference

    reference = parse_reference(text)
    match reference:
        case HubReference(repo, revision):
            from distro.sources.hub import variant_from_hub

            return catalog.Resolved(None, *variant_from_hub(session.settings, repo, revision))
        case TorrentReference(location) if not location.startswith("https://"):
            from pathlib import Path

            from distro.swarm.torrent import read
            from distro.swarm.variant import variant_from_torrent

            return catalog.Resolved(None, *variant_from_torrent(read(Path(location)), allow_sha1=True))
        case PathReference(path) if path.suffix != ".toml":
            raise UsageError(f"{path}: `show` is for models; `distro inspect` shows the inside of a file")
    return catalog.load(session.settings).resolve(reference)


def _lines(session: Session, resolved: Resolved) -> list[_Line]:
    from distro.store import Store

    store, model = Store(session.settings.home), resolved.model
    here = {variant for name, variant in store.variants() if name == model.name}
    lines = [
        _Line(
            variant.name, variant.format, variant.size, _estimate(model, variant), _proof(variant), variant.name in here
        )
        for variant in model.variants
    ]
    for name in sorted(here - {variant.name for variant in model.variants}):
        receipt = store.receipt(model.name, name)
        if receipt is not None:
            lines.append(_Line(name, receipt.format, receipt.size, None, "strong", True, receipt.recipe is not None))
    return lines


def _print_card(resolved: Resolved, lines: list[_Line], total: int | None) -> None:
    from distro.cli.ls import count, license_of

    family, model, variant = resolved.family, resolved.model, resolved.variant
    also = f" (also {', '.join(model.aliases)})" if model.aliases else ""
    pairs = [("model", model.name + also)]
    if family is not None:
        pairs += [
            ("family", f"{family.name}, by {family.publisher}"),
            ("licence", f"{license_of(family)}  {family.license.url}"),
        ]
    else:
        pairs += [("licence", "not known here; see the publisher's page")]
    exact = f" ({model.parameters:,})" if model.parameters else ""
    pairs += [("parameters", count(model.parameters) + exact), ("architecture", model.architecture or "?")]
    pairs += [("memory here", console.size(total))]
    for key, value in pairs:
        console.result(f"{key:<12}  {value}")

    console.result("")
    rows = [
        [
            f"{line.name} *" if line.name == model.default else line.name,
            line.format,
            console.size(line.size) if line.estimate is None else f"~{console.size(line.estimate)}",
            line.proof,
            _fit(line.size or line.estimate, total),
            "made here" if line.made_here else "yes" if line.is_here else "-",
        ]
        for line in lines
    ]
    console.table(["variant", "format", "size", "digests", "fits", "here"], rows, right=[2])

    console.result("")
    console.result(f"{resolved}" + (" (asks for terms to be accepted, or may do so)" if variant.gated else ""))
    console.table(
        ["file", "size", "proven by"],
        [[file.path, console.size(file.size), _strength(file)] for file in variant.files],
        right=[1],
    )
    for source in variant.sources:
        console.result(f"from {source}")
    if not variant.sources:
        console.result(f"no public source; files of your own are proven by `distro verify {resolved} --in FOLDER`")


def _described(resolved: Resolved, lines: list[_Line], total: int | None) -> dict[str, object]:
    family, model, variant = resolved.family, resolved.model, resolved.variant
    return {
        "schema": "distro-show/1",
        "model": model.name,
        "aliases": list(model.aliases),
        "family": family.name if family else None,
        "publisher": family.publisher if family else None,
        "license": vars(family.license) if family else None,
        "parameters": model.parameters or None,
        "architecture": model.architecture or None,
        "default": model.default,
        "memory": total,
        "variants": [{**vars(line), "fits": _fits(line.size or line.estimate, total)} for line in lines],
        "variant": {
            "name": variant.name,
            "format": variant.format,
            "size": variant.size,
            "gated": variant.gated,
            "sources": list(variant.sources),
            "files": [_file(file) for file in variant.files],
        },
    }


def _file(file: File) -> dict[str, object]:
    from distro.digest import KINDS

    digests = [f"{kind}:{digest}" for kind in KINDS if (digest := getattr(file, kind))]
    return {"path": file.path, "size": file.size, "digests": digests, "origin": list(file.origin)}


def _estimate(model: Model, variant: Variant) -> int | None:
    from converters.dtypes import BF16, BY_NAME

    plain = BF16 if variant.format in ("safetensors", "pytorch", "pth") else None
    dtype = BY_NAME.get(variant.name.upper(), plain)
    if variant.size is not None or not model.parameters or dtype is None:
        return None
    return int(model.parameters * dtype.bits_per_weight / 8)


def _proof(variant: Variant) -> str:
    from distro.digest import WEAK
    from distro.verify import strongest

    found = {"none" if proof is None else "weak" if proof[0] in WEAK else "strong"
             for proof in map(strongest, variant.files)}  # fmt: skip
    return "mixed" if len(found) > 1 else next(iter(found), "none")


def _strength(file: File) -> str:
    from distro.digest import WEAK
    from distro.verify import strongest

    proof = strongest(file)
    if proof is None:
        return "nothing"
    return f"{proof[0]} (weak)" if proof[0] in WEAK else proof[0]


def _fits(size: int | None, total: int | None) -> bool | None:
    from distro.memory import needed_bytes

    return None if size is None or total is None else needed_bytes(size) <= total


def _fit(size: int | None, total: int | None) -> str:
    return {True: "yes", False: "no", None: "?"}[_fits(size, total)]
