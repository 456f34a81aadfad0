"""`distro compare`: two models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint


def compare(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="A", help="The one to hold against: REF or path.")],
    result: Annotated[str, typer.Argument(metavar="B", help="The one that is judged: REF or path.")],
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: as torch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold B against A: token ids, chat template, and logits over a fixed text."""
    import torch

    from converters.formats import open_checkpoint
    from distro.lookup import local_path
    from distro.runtime import check

    if threads is not None:
        torch.set_num_threads(threads)
    session = context.obj
    with (
        open_checkpoint(local_path(session.settings, source)) as a,
        open_checkpoint(local_path(session.settings, result)) as b,
    ):
        verdict = check.compare(a, b)

    if as_json:
        console.result_json({"a": _facts(a), "b": _facts(b), **verdict.to_json()})
        return
    d = verdict.divergence
    console.table(
        ["", "A", "B"],
        [
            ["file", a.path.name, b.path.name],
            ["format", a.format, b.format],
            ["types", ", ".join(_types(a)), ", ".join(_types(b))],
            ["weights", console.size(a.n_bytes), console.size(b.n_bytes)],
            ["bits per weight", f"{8 * a.n_bytes / a.n_weights:.2f}", f"{8 * b.n_bytes / b.n_weights:.2f}"],
            ["perplexity", f"{d.source_perplexity:.3f}", f"{d.result_perplexity:.3f}"],
        ],
    )
    for line in verdict.lines():
        console.result(line)


def _types(checkpoint: Checkpoint) -> list[str]:
    """Types in a checkpoint, the one with most weights first."""
    weights: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        name = tensor.info.dtype.name
        weights[name] = weights.get(name, 0) + tensor.info.n_weights
    return sorted(weights, key=lambda name: -weights[name])


def _facts(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "types": _types(checkpoint),
        "bytes": checkpoint.n_bytes,
        "weights": checkpoint.n_weights,
    }
