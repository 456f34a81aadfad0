"""What an architecture must offer: its hyper-parameters in two dialects, its names, the order of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from converters.dtypes import DType
from converters.fields import Fields
from converters.hyperparameters import HyperParameters
from converters.tensors import Tensor


class Architecture(Protocol):
    """One module of this package, named after `model_type` in config.json."""

    NAME: str  # `general.architecture` in GGUF
    HF_CLASSES: tuple[str, ...]  # `architectures` in config.json; the first is the one we write

    def from_config(self, config: Fields) -> HyperParameters:
        """Hyper-parameters out of a Hugging Face config.json."""
        ...

    def to_config(self, parameters: HyperParameters) -> dict[str, object]:
        """The part of config.json that this architecture knows of."""
        ...

    def from_gguf(self, fields: Fields) -> HyperParameters:
        """Hyper-parameters out of GGUF keys."""
        ...

    def to_gguf(self, parameters: HyperParameters) -> dict[str, object]:
        """GGUF keys: int values are written as UINT32, float as FLOAT32, str as STRING."""
        ...

    def from_params(self, params: Fields, embedding_weights: int, dtype: DType) -> HyperParameters:
        """Hyper-parameters out of Meta's or Mistral's params.json.

        embedding_weights: numbers in the whole embedding. dtype: of the weights. Both say what the file leaves out.
        """
        ...

    def to_meta_params(self, parameters: HyperParameters, dtype: DType) -> dict[str, object]:
        """params.json as Meta writes it. dtype: of the weights beside it. RefusedError for what it has no word for."""
        ...

    def to_mistral_params(self, parameters: HyperParameters) -> dict[str, object]:
        """params.json as Mistral writes it. RefusedError for what it has no word for."""
        ...

    def hf_names(self, parameters: HyperParameters) -> Mapping[str, str]:
        """Every tensor that this shape can have: GGUF name to Hugging Face name."""
        ...

    def meta_names(self, parameters: HyperParameters) -> Mapping[str, str]:
        """Every tensor that this shape can have: GGUF name to the name in Meta's releases and in GGML files."""
        ...

    def meta_axis(self, name: str) -> int | None:
        """Along which axis Meta divides a tensor (by GGUF name) over its shards; None for one that each of them has.

        The embedding is said to be divided by its rows, as since Llama 3; before, its columns were.
        """
        ...

    def shapes(self, parameters: HyperParameters) -> Mapping[str, tuple[int, ...]]:
        """The shape that each tensor must have, by GGUF name, row-major."""
        ...

    def heads_to_reorder(self, name: str, parameters: HyperParameters) -> bool:
        """Whether rows of this tensor (by GGUF name) are split in halves per head in Hugging Face's files."""
        ...

    def computed_tensors(self, parameters: HyperParameters) -> Mapping[str, Tensor]:
        """Tensors that GGUF holds and Hugging Face's files do not, made from the hyper-parameters."""
        ...

    def settle(self, parameters: HyperParameters, tensors: Mapping[str, Tensor]) -> HyperParameters:
        """Fill in what GGUF keys leave to the tensors."""
        ...
