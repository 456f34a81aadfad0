"""`distro manifest`: check manifests, and make new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console
from distro.errors import CannotCreateError, DistroError, NotFoundError, UsageError, exit_code, message

if TYPE_CHECKING:
    from distro.manifest import Family, Model, Variant

app = typer.Typer(name="manifest", help="Check manifests, and make new ones.")


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Manifests, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold manifests against every rule; the first fault of each is shown with field and line."""
    from distro import manifest_file

    results: list[dict[str, object]] = []
    codes: list[int] = []
    for path in _manifests(paths):
        try:
            results.append({"path": str(path), "ok": True, **_counted(manifest_file.read(path))})
        except (DistroError, OSError) as error:
            codes.append(exit_code(error))
            results.append({"path": str(path), "ok": False, "error": message(error)})
    if as_json:
        console.result_json({"schema": "distro-manifest-check/1", "manifests": results})
    for result in results:
        if not result["ok"]:
            console.error(str(result["error"]))
        elif not as_json:
            words = "{path}: {family}, {models} models, {variants} variants, {files} files"
            unproven = ", {unproven} without a digest" if result["unproven"] else ""
            console.result((words + unproven).format(**result))
    if codes:
        raise typer.Exit(codes[0])


@app.command()
def new(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="hf:OWNER/REPO", help="A repository, with @REVISION if need be.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it there, instead of to the standard output.")
    ] = None,
) -> None:
    """Write a manifest of a hub repository, with the hub's own digests, pinned to a commit."""
    from distro import manifest_file
    from distro.reference import HubReference, parse_reference
    from distro.sources.hub import variant_from_hub

    parsed = parse_reference(reference)
    if not isinstance(parsed, HubReference):
        raise UsageError(f"{reference}: only a hub repository (hf:owner/repo) says enough to make a manifest of it")
    settings = context.obj.settings
    family = _family(parsed.repo, *variant_from_hub(settings, parsed.repo, parsed.revision))
    text = manifest_file.dump(family)
    manifest_file.parse(text, reference)  # what we write, we can read
    console.say("the licence is not filled in, and sharing is not allowed before it is: see [license]")
    if output is None:
        console.result(text.rstrip("\n"))
        return
    try:
        with output.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except FileExistsError:
        raise CannotCreateError(f"{output}: is there already") from None
    console.result(str(output))


def _manifests(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not inside:
            raise NotFoundError(f"{path}: no manifest in this folder")
        found += inside
    return found


def _counted(family: Family) -> dict[str, object]:
    variants = [variant for model in family.models for variant in model.variants]
    files = [file for variant in variants for file in variant.files]
    return {
        "family": family.name,
        "models": len(family.models),
        "variants": len(variants),
        "files": len(files),
        "unproven": sum(not file.is_proven_by_digest for file in files),
    }


def _family(repo: str, model: Model, variant: Variant) -> Family:
    """A family of one model, named after the repository; the licence is for a person to read and fill in."""
    from dataclasses import replace

    from distro.manifest import Family, License

    owner, _, name = repo.partition("/")
    page = License("LicenseRef-unknown", f"https://huggingface.co/{repo}", "forbidden")
    named = replace(variant, name="hf")
    return Family(
        name=name.lower(),
        publisher=owner,
        license=page,
        models=(replace(model, name=name.lower(), default="hf", variants=(named,)),),
    )
