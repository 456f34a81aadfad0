"""What goes into each matrix while the reference decoder reads a text: sums of squares, for an importance matrix.

The decoder knows nothing of it. Its weights are wrapped, and a wrapped matrix notes what it is multiplied with. Weights
may be read as they are needed, so that a model larger than memory is observed as well; what is kept is two numbers for
each column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from converters.errors import MalformedError
from converters.imatrix import Entry, Imatrix
from converters.input_file import InputFile
from distro.errors import UsageError
from distro.runtime.load import Weights
from distro.runtime.model import Model

_LARGEST = torch.finfo(torch.float32).max


def read_text(path: Path) -> str:
    """A text to read, UTF-8. Raises MalformedError with the place of what is none, MissingError."""
    with InputFile(path) as file:
        data = file.read(0, file.size, "text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found = data[error.start : error.start + 8]
        raise MalformedError(path, "text", offset=error.start, found=found, allowed="UTF-8") from None


def observe(
    model: Model,
    ids: Sequence[int],
    *,
    chunk_size: int,
    dataset: str,
    with_output: bool = False,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> Imatrix:
    """The importance matrix of a model over a text, as llama-imatrix makes it.

    The text is read in chunks of chunk_size tokens, each for itself, and each begins with the begin token if the
    vocabulary wants one; tokens that fill no chunk are left out. Observed are the matrices of the layers; with_output,
    the one that gives the logits too, by its own name even where that is the embedding's. advance is told the tokens as
    they are read.
    Raises UsageError for a chunk that the context or the text cannot fill, MalformedError where activations are no
    numbers.
    """
    context_length = model.checkpoint.hyperparameters.context_length
    if not 1 <= chunk_size <= context_length:
        raise UsageError(f"chunk: found {chunk_size} tokens, allowed 1 to the model's context of {context_length}")
    n_chunks = len(ids) // chunk_size
    if n_chunks == 0:
        raise UsageError(f"text: found {len(ids)} tokens, allowed {chunk_size} or more, which is one chunk")

    vocabulary, decoder = model.vocabulary, model.decoder
    plain = decoder.weights
    decoder.weights = observed = ObservedWeights(plain, beyond_layers=with_output)
    try:
        for number in range(n_chunks):
            chunk = list(ids[number * chunk_size : (number + 1) * chunk_size])
            if vocabulary.add_bos and vocabulary.bos_id is not None:
                chunk[0] = vocabulary.bos_id
            decoder.forward(chunk, last_only=not with_output)
            advance(chunk_size)
    finally:
        decoder.weights = plain
    return Imatrix(observed.entries(), (dataset,), n_chunks, chunk_size)


class ObservedWeights(Weights):
    """Weights of a decoder, each matrix of which notes what it is multiplied with.

    beyond_layers: matrices outside of the layers too, which is the one that gives the logits.
    """

    def __init__(self, weights: Weights, *, beyond_layers: bool) -> None:
        self.path = weights.path
        self._weights, self._beyond_layers = weights, beyond_layers
        self._totals: dict[str, _Totals] = {}

    def get(self, name: str) -> Tensor | None:
        weight = self._weights.get(name)
        return None if weight is None else self._observed(name, weight)

    def __getitem__(self, name: str) -> Tensor:
        return self._observed(name, self._weights[name])

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        return self._weights.rows(name, ids)

    def product(self, x: Tensor, name: str) -> Tensor:
        if self._is_of_interest(name):
            self._totals_of(name, 1, x.shape[-1]).add(x)
        return self._weights.product(x, name)

    def entries(self) -> dict[str, Entry]:
        """What was noted so far, by name."""
        return {name: totals.entry() for name, totals in sorted(self._totals.items())}

    def _observed(self, name: str, weight: Tensor) -> Tensor:
        if weight.ndim < 2 or not self._is_of_interest(name):
            return weight
        n_experts = weight.shape[0] if weight.ndim == 3 else 1
        totals = self._totals_of(name, n_experts, weight.shape[-1])
        return cast(Tensor, ObservedMatrix(weight, totals))  # which is as good as a tensor to `linear`

    def _is_of_interest(self, name: str) -> bool:
        return name.startswith("blk.") or self._beyond_layers

    def _totals_of(self, name: str, n_experts: int, n_columns: int) -> _Totals:
        if name not in self._totals:
            self._totals[name] = _Totals(self.path, name, n_experts, n_columns)
        return self._totals[name]


class ObservedMatrix:
    """Stands for a matrix in `linear`, or for matrices of experts of which one is picked by its number first.

    Whatever else a decoder might do with it would go unnoticed, and so is an error (torch raises TypeError).
    """

    def __init__(self, matrix: Tensor, totals: _Totals, expert: int = 0) -> None:
        self._matrix, self._totals, self._expert = matrix, totals, expert

    def __getitem__(self, expert: int) -> ObservedMatrix:
        return ObservedMatrix(self._matrix[expert], self._totals, expert)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: object = None
    ) -> Any:
        """torch's own door for things that are no tensors: called in place of a function that is given one."""
        if function is not linear or len(args) != 2 or kwargs or not isinstance(args[1], ObservedMatrix):
            return NotImplemented
        x, observed = args
        observed._totals.add(x, observed._expert)
        return linear(x, observed._matrix)


class _Totals:
    """Sums of squares in float64, so that their order and number cost no precision that float32 would show."""

    def __init__(self, path: Path, name: str, n_experts: int, n_columns: int) -> None:
        self._path, self._name = path, name
        self._sums = torch.zeros(n_experts, n_columns, dtype=torch.float64)
        self._counts = np.zeros(n_experts, np.int64)

    def add(self, x: Tensor, expert: int = 0) -> None:
        """What one matrix is multiplied with: (seq, n_columns)."""
        self._sums[expert] += x.square().sum(0, dtype=torch.float64)
        self._counts[expert] += x.shape[0]
        if not self._sums[expert].max() <= _LARGEST:  # also where it is not a number
            found = "an input that is nan, infinite or too large to square"
            raise MalformedError(self._path, self._name, found=found, allowed="numbers")

    def entry(self) -> Entry:
        return Entry(self._sums.float().numpy(), self._counts.copy())
