"""`distro imatrix`: what of a model a text uses, so that quantizing can spare it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console

if TYPE_CHECKING:
    from converters.imatrix import Imatrix

_MOST_SHOWN = 4


def imatrix(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model that is here, a file or a folder.")],
    text: Annotated[
        Path, typer.Option("--text", help="What the model is to read, UTF-8: like what it will be used on.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where it goes (default: NAME.imatrix.gguf, here).")
    ] = None,
    chunk: Annotated[int, typer.Option("--chunk", min=1, help="Tokens that are read in one go.")] = 512,
    with_output: Annotated[
        bool, typer.Option("--with-output", help="Observe the matrix that gives the logits as well.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: as torch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make an importance matrix: how strongly a text uses each column of each matrix.

    `distro convert --imatrix` weighs errors by it, and so does llama-quantize.
    """
    import hashlib

    import torch

    from converters.imatrix import pack
    from distro.lookup import local
    from distro.runtime.model import Model
    from distro.runtime.observe import observe, read_text
    from distro.store import Store

    if threads is not None:
        torch.set_num_threads(threads)
    session = context.obj
    source = local(session.settings, reference)
    name = (source.model or source.path.stem).replace("/", "--")
    target = output or Path(f"{name}.imatrix.gguf")
    store = Store(session.settings.home)
    store.refuse_inside(target)
    content = read_text(text)
    with store.result(target, single_file=True) as result, Model.open(source.path) as model:
        if not model.in_memory:
            session.progress.say("larger than the free memory: read again for every chunk, which is slow")
        ids = model.tokenizer.encode(content)
        n_bytes = len(content.encode())
        with session.progress.bar(f"read {text.name}", n_bytes) as bar:
            made = observe(
                model,
                ids,
                chunk_size=chunk,
                dataset=text.name,
                with_output=with_output,
                advance=lambda n_tokens: bar.advance(n_tokens * n_bytes // len(ids)),
            )
        data = pack(made)
        result.create(target.name, len(data)).write_at(0, data)
        result.publish()

    few = made.with_few_tokens()
    if as_json:
        console.result_json(
            {
                "path": str(target),
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "tokens": len(ids),
                "chunks": made.chunk_count,
                "chunk_size": made.chunk_size,
                "tensors": {
                    name: {"columns": entry.sums.shape[1], "tokens": entry.counts.tolist()}
                    for name, entry in made.entries.items()
                },
                "with_few_tokens": {name: list(experts) for name, experts in few.items()},  # experts by number
            }
        )
        return
    console.say(f"{made.chunk_count} chunks of {chunk} tokens; {len(ids) % chunk} at the end fill no chunk")
    for line in _warnings(made, few):
        console.say(line)
    console.result(str(target))


def _warnings(made: Imatrix, few: Mapping[str, Mapping[int, int]]) -> Iterator[str]:
    """Matrices that saw little of the text: all experts by number, plain matrices together."""
    from converters.imatrix import FEW_TOKENS

    plain = [name for name in few if len(made.entries[name].counts) == 1]
    if plain:
        more = f" and {len(plain) - _MOST_SHOWN} more" if len(plain) > _MOST_SHOWN else ""
        yield f"{', '.join(plain[:_MOST_SHOWN])}{more}: fewer than {FEW_TOKENS} tokens, give more text"
    for name, experts in few.items():
        if name not in plain:
            seen = (f"{expert} ({count or 'never'})" for expert, count in experts.items())
            yield f"{name}: experts reached by fewer than {FEW_TOKENS} tokens: {', '.join(seen)}"
