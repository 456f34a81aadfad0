"""A model that answers: a checkpoint with its tokenizer, its chat template and its decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from converters.checkpoint import Checkpoint
from converters.errors import MissingError
from converters.formats import open_checkpoint
from distro.runtime import chat
from distro.runtime.generate import GREEDY, Sampling, generate
from distro.runtime.load import fits_in_memory, memory_needed
from distro.runtime.models import decoder
from distro.runtime.tokenizer import Tokenizer

_USUAL_POSITIONS = 2048  # that room is kept for when it is decided whether a model fits into memory


@dataclass(frozen=True)
class Piece:
    """Part of an answer. token: its id, None for what was left when the last one was out. text: may be empty, for a
    token can be part of a character."""

    token: int | None
    text: str


class Model:
    """Text in, text out, for any checkpoint that the converters open.

    in_memory: whether all weights are loaded; by default they are where they fit, and otherwise every token reads the
    model again, which is slow and works. Raises MissingError for a checkpoint without a tokenizer.
    """

    def __init__(self, checkpoint: Checkpoint, *, in_memory: bool | None = None) -> None:
        if checkpoint.vocabulary is None:
            raise MissingError(checkpoint.path, "a tokenizer is needed to read and write text")
        self.checkpoint, self.vocabulary = checkpoint, checkpoint.vocabulary
        self.tokenizer = Tokenizer(self.vocabulary)
        if in_memory is None:
            n_positions = min(checkpoint.hyperparameters.context_length, _USUAL_POSITIONS)
            in_memory = fits_in_memory(memory_needed(checkpoint, n_positions))
        self.in_memory = in_memory
        self.decoder = decoder(checkpoint, in_memory=in_memory)

    @classmethod
    def open(cls, path: Path | str, *, in_memory: bool | None = None) -> Model:
        """The model in a file or folder. Raises what `open_checkpoint` raises."""
        checkpoint = open_checkpoint(Path(path))
        try:
            return cls(checkpoint, in_memory=in_memory)
        except BaseException:
            checkpoint.close()
            raise

    def prompt_ids(self, text: str, *, system: str | None = None, raw: bool = False) -> list[int]:
        """The ids that a question becomes: through the chat template where there is one.

        raw: text to be continued as it is, with the begin token that the vocabulary wants. Raises RefusedError for a
        system message without a template to write it.
        """
        if raw or (self.vocabulary.chat_template is None and system is None):
            return self.tokenizer.encode(text)
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rendered = chat.render(self.vocabulary, messages, path=self.checkpoint.path)
        return self.tokenizer.encode(rendered, add_special=False, parse_special=True)

    def stream(self, prompt: Sequence[int], *, max_tokens: int, sampling: Sampling = GREEDY) -> Iterator[Piece]:
        """What follows a prompt, piece by piece, up to a stop token, max_tokens or the end of the context."""
        text = self.tokenizer.stream(after=prompt)
        for token in generate(
            self.decoder, prompt, max_tokens=max_tokens, stop_ids=self.vocabulary.stop_ids, sampling=sampling,
            n_tokens=len(self.vocabulary),
        ):  # fmt: skip
            yield Piece(token, text.feed(token))
        if rest := text.finish():
            yield Piece(None, rest)

    def answer(self, question: str, *, max_tokens: int = 256, sampling: Sampling = GREEDY) -> str:
        """A whole answer at once, greedy unless asked otherwise."""
        prompt = self.prompt_ids(question)
        return "".join(piece.text for piece in self.stream(prompt, max_tokens=max_tokens, sampling=sampling))

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoint.close()
