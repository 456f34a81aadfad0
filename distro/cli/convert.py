"""`distro convert`: one form of a model made from another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console
from distro.errors import UsageError

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint


def convert(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model that is here, a file or a folder.")],
    to: Annotated[str, typer.Option("--to", help="Format of the result: gguf, safetensors, bin, pth, mistral.")] = "",
    quant: Annotated[str, typer.Option("--quant", "-t", help="Types of the weights: q8_0, q4_k_m, iq4_xs, f16 …")] = "",
    fit: Annotated[
        str, typer.Option("--fit", metavar="SIZE", help="Choose the best types that fit, such as 8GB, cache and all.")
    ] = "",
    context_length: Annotated[
        int, typer.Option("--context", metavar="TOKENS", min=1, help="The conversation that --fit leaves room for.")
    ] = 4096,
    tensor_types: Annotated[
        list[str] | None,
        typer.Option("--tensor-type", metavar="PATTERN=TYPE", help="Another type for tensors of such a name."),
    ] = None,
    output_type: Annotated[str | None, typer.Option("--output-type", help="Another type for the output.")] = None,
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", help="Another type for the token embedding.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="One type everywhere, no rules.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Put the result there instead of into the store.")
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", help="Weigh errors by this importance matrix (`distro imatrix`, llama-imatrix)."),
    ] = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Split into files of so much, such as 5GB.")
    ] = "",
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, help="Divide the matrices of a pth folder over so many files.")
    ] = None,
    big_endian: Annotated[bool, typer.Option("--big-endian", help="A GGUF for machines of that byte order.")] = False,
    allow_trailing: Annotated[
        bool, typer.Option("--allow-trailing", help="Read a GGUF that has bytes behind its tensors, and drop those.")
    ] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance/--no-provenance", help="Write into the result what it was made from.")
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the result, once proven, take the place of what is at -o.")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the new variant (default: its type).")] = "",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Default: one for each core.")] = os.cpu_count() or 1,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Prove the result against its source.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the exact size only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert and quantize in one pass, and check that the result still speaks."""
    from converters.formats import open_checkpoint
    from converters.imatrix import read as read_imatrix
    from converters.plan import make
    from converters.recipe import Recipe
    from distro import derive
    from distro.cli.plan import print_plan
    from distro.cli.quantity import parse_bytes
    from distro.lookup import local
    from distro.proof.proofs import Proofs
    from distro.store import Store

    session = context.obj
    if replace and output is None:
        raise UsageError("--replace: only what is at a place of your own, with -o, gives way; `distro rm` does it here")
    if name and output is not None:
        raise UsageError("--name: is of a variant in the store, and -o puts the result elsewhere")
    source = local(session.settings, reference)
    weighing = None if imatrix is None else read_imatrix(imatrix)
    with open_checkpoint(source.path, allow_trailing=allow_trailing) as checkpoint:
        if fit:
            quant = _fitting(checkpoint, fit, context_length, to or quant, has_imatrix=weighing is not None)
        stored = {tensor.info.dtype.name for tensor in checkpoint.tensors.values()}
        target, mix = _wanted(to, quant, stored)
        recipe = Recipe(
            target, mix, imatrix=weighing.sha256 if weighing else None, pure=pure or None, output_type=output_type,
            token_embedding_type=embedding_type, tensor_types=_pairs(tensor_types), n_shards=shards,
            max_shard_bytes=parse_bytes(shard_size, "--shard-size") if shard_size else None,
            byte_order="big" if big_endian else None,
        )  # fmt: skip
        base = derive.base_name(source.path, model=source.model, target=output)
        plan = make(checkpoint, recipe, base, weighing, made_by=derive.made_by() if provenance else None)
        if dry_run:
            print_plan(plan, threads, as_json=as_json)
            return
        store = Store(session.settings.home)
        settings = {"threads": threads, "check": check, "progress": session.progress}
        if output is not None:
            made = derive.into_path(store, checkpoint, plan, output, replace=replace, **settings)
        elif source.model is None:
            raise UsageError(f"{reference}: a path has no place in the store; say where the result goes with -o")
        else:
            variant = name or (recipe.mix if recipe.target == "gguf" else recipe.target)
            if source.declares(variant):
                raise UsageError(f"{source.model}:{variant} is published under that name; choose another with --name")
            proofs = Proofs(session.settings.state_folder)
            made = derive.into_store(store, checkpoint, plan, source.model, variant, proofs=proofs, **settings)

    if as_json:
        verdict = made.verdict.to_json() if made.verdict else None
        console.result_json({"path": str(made.path), "size": made.plan.size, "check": verdict})
        return
    unchecked = "is here already, from the same recipe and the same inputs" if made.made_before else "not checked"
    for line in made.verdict.lines() if made.verdict else [unchecked]:
        console.say(line)
    console.result(str(made.path))


def _wanted(to: str, quant: str, stored: set[str]) -> tuple[str, str]:
    """Format and mix: a type alone means GGUF; a format alone keeps plain weights as they are stored."""
    if not to and not quant:
        raise UsageError("say what is wanted: --to safetensors, --quant q8_0, or both, or --fit 8GB")
    if not quant:
        plain = [name for name in ("F32", "BF16", "F16") if name in stored - {"F32"}] or ["F32"]
        quant = plain[0].lower() if stored <= {"F32", "F16", "BF16"} else "f16"
    return to or "gguf", quant


def _fitting(checkpoint: Checkpoint, size: str, context_length: int, said: str, *, has_imatrix: bool) -> str:
    """The mix that --fit chooses, said aloud with its reason."""
    from converters.fit import choose
    from distro.cli.quantity import parse_bytes

    if said not in ("", "gguf"):
        raise UsageError("--fit chooses the types of a GGUF by itself; leave out --quant, and --to other than gguf")
    budget = parse_bytes(size, "--fit")
    best = choose(checkpoint, budget, context_length, has_imatrix=has_imatrix)
    console.say(
        f"{best.mix} is the best that fits into {console.size(budget)}: {console.size(best.size)} of weights and "
        f"{console.size(best.cache)} for {context_length} tokens"
    )
    return best.mix


def _pairs(texts: list[str] | None) -> tuple[tuple[str, str], ...] | None:
    pairs = tuple((pattern, name) for pattern, _, name in (text.rpartition("=") for text in texts or ()))
    if any(not pattern or not name for pattern, name in pairs):
        raise UsageError(f"--tensor-type: found {', '.join(texts or ())}, allowed PATTERN=TYPE, such as attn_v=q8_0")
    return pairs or None
