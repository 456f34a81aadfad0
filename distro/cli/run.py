"""`distro run`: a sentence out of a model."""

from __future__ import annotations

import time
import unicodedata
from typing import Annotated

import typer

from distro.cli import console
from distro.errors import UsageError


def run(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF|PATH", help="A model that is here, a file or a folder.")],
    prompt: Annotated[str, typer.Argument(help="The question, or the text to go on from.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="A system message before the question.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Stop after so many tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Only the likeliest that reach this together.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Only so many of the likeliest.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="The same answer for the same seed.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: as torch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when all is said.")] = False,
) -> None:
    """Answer a question, or go on with a text, in the reference runtime."""
    if raw and system is not None:
        raise UsageError("--system: needs the chat template, which --raw leaves out")

    import torch

    from distro.lookup import local_path
    from distro.runtime.generate import Sampling, room_for
    from distro.runtime.model import Model

    if threads is not None:
        torch.set_num_threads(threads)
    session = context.obj
    with Model.open(local_path(session.settings, reference)) as model:
        if not model.in_memory:
            session.progress.say("larger than the free memory: read again for every token, which is slow")
        prompt_ids = model.prompt_ids(prompt, system=system, raw=raw)
        sampling = Sampling(temperature, top_k, top_p, seed)
        tokens: list[int] = []
        texts: list[str] = []
        clock = [time.perf_counter()]
        for piece in model.stream(prompt_ids, max_tokens=max_tokens, sampling=sampling):
            texts.append(piece.text)
            if piece.token is not None:
                tokens.append(piece.token)
                clock.append(time.perf_counter())
            if not as_json:
                console.fragment(visible(piece.text))
        stopped = len(tokens) < room_for(model.decoder, prompt_ids, max_tokens)

    rate = tokens_per_second(clock)
    if as_json:
        console.result_json(
            {
                "prompt_ids": prompt_ids,
                "token_ids": tokens,
                "text": "".join(texts),
                "finish": "stop" if stopped else "length",
                "tokens_per_second": rate,
            }
        )
        return
    console.result("")
    session.progress.say(f"{len(tokens)} tokens" + ("" if rate is None else f", {rate:.1f} a second"))


def visible(text: str) -> str:
    """Text as a model wrote it, control characters spelled out (`\\x1b`): it must not steer the terminal.

    New lines and tabs stay. Nothing that can be seen is touched: joiners, wide spaces and marks are no controls.
    """
    return "".join(
        c.encode("unicode_escape").decode() if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs") else c
        for c in text
    )


def tokens_per_second(clock: list[float]) -> float | None:
    """The pace once the prompt was read: between the first and the last token. clock: start, then each token, in s."""
    if len(clock) < 3:
        return None
    return (len(clock) - 2) / (clock[-1] - clock[1])
