"""GGUF: hyper-parameters, vocabulary and tensors in one file or in shards, as llama.cpp and its kin read them.

The bytes stand in gguf_header.py, what a model in shards is in gguf_shards.py. Tensor names and the order of rows are
the ones that we use between formats, so nothing is renamed or reordered here. A result is written in version 3: the
keys in the order of llama.cpp's converter (general, architecture, tokenizer), the tensors in the order of the
architecture and any others after them by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from converters.architectures import by_gguf_name
from converters.architectures.base import Architecture
from converters.checkpoint import Card, Checkpoint
from converters.dtypes import DType
from converters.errors import ConversionError, MalformedError, RefusedError, UnsupportedError, shown
from converters.fields import Fields
from converters.formats import signatures
from converters.formats.gguf_dialect import Dialect
from converters.formats.gguf_shards import Shard, holds_models, only_model, open_shards, prefix_of
from converters.formats.gguf_split import groups_by_size, lay_out_file, lay_out_shards
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile, Opener
from converters.layout import OutputFile
from converters.model_card import OF_THE_FILE
from converters.provenance import Provenance
from converters.tensors import Tensor, TensorInfo
from converters.tokenizers.gguf_keys import vocabulary_from_gguf, vocabulary_to_gguf
from converters.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from converters.imatrix import Imatrix  # which reads GGUF files itself

NAME = "gguf"

# How quantized blocks are laid out: GGML_QNT_VERSION in ggml.h.
_QUANTIZED, _QUANTIZATION_VERSION = "general.quantization_version", 2
# Rotary frequencies, which follow from the hyper-parameters; in another form than ours they mean nothing to us.
_DERIVED = re.compile(r"rope_freqs\.weight|blk\.\d{1,4}\.attn_rot_embd\.weight", re.ASCII)


def sniff(path: Path) -> bool:
    """Whether this is a file that begins as GGUF files do, or a folder of such files and no other model."""
    try:
        if path.is_dir():
            return holds_models(path)
        with InputFile(path) as file:
            head = file.read(0, min(file.size, signatures.LENGTH), "header")
            return signatures.of(head) is signatures.Signature.GGUF
    except (ConversionError, OSError):
        return False


def open_checkpoint(path: Path, *, opener: Opener = InputFile, allow_trailing: bool = False) -> Checkpoint:
    """A model in a file, in shards of which this is any, or the one in a folder; weights are left where they are.

    allow_trailing: bytes after the last tensor are left alone instead of refused. Raises MalformedError naming the
    key or tensor, MissingError for a shard that is not there, UnsupportedError for GGUF files that are no model, of an
    architecture that we do not know, or for several in a folder.
    """
    shards = open_shards(only_model(path) if path.is_dir() else path, opener, allow_trailing=allow_trailing)
    with ExitStack() as stack:
        for shard in shards:
            stack.callback(shard.file.close)
        checkpoint = checkpoint_of(shards)
        checkpoint.check_unchanged()
        stack.pop_all()
    return checkpoint


def checkpoint_of(shards: Sequence[Shard]) -> Checkpoint:
    """The model in open files, in their order: what the keys of the first say, and the tensors of all."""
    file, header, fields = shards[0].file, shards[0].header, shards[0].fields
    # Adapters, importance matrices and projectors share the container.
    kind = fields.string("general.type", default="model")
    if kind != "model":
        raise UnsupportedError(fields.path, "general.type", found=kind, allowed="model")
    architecture = by_gguf_name(file.path, header.metadata.get("general.architecture"))
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors().items()}
    _check_blocks(fields, tensors)
    parameters = architecture.settle(architecture.from_gguf(fields), tensors)
    warnings = _check_shapes(file.path, architecture, parameters, tensors)
    warnings += _size_warnings(fields, f"{architecture.NAME}.vocab_size", parameters)
    vocabulary = vocabulary_from_gguf(fields)
    _check_rows(fields, vocabulary, parameters)
    return Checkpoint(
        path=file.path,
        format=NAME,
        architecture=architecture.NAME,
        hyperparameters=parameters,
        vocabulary=vocabulary,
        tensors=tensors,
        files=tuple(shard.file for shard in shards),
        card=_card(fields),
        warnings=warnings,
    )


def _check_blocks(fields: Fields, tensors: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedError for quantized blocks of another layout than ours, in which the bytes are other weights."""
    if all(tensor.info.dtype.is_plain for tensor in tensors.values()):
        return
    version = fields.integer(_QUANTIZED, minimum=0, maximum=2**32 - 1, default=_QUANTIZATION_VERSION)
    if version != _QUANTIZATION_VERSION:
        raise UnsupportedError(fields.path, _QUANTIZED, found=version, allowed=str(_QUANTIZATION_VERSION))


def _size_warnings(fields: Fields, key: str, parameters: HyperParameters) -> tuple[str, ...]:
    """As llama.cpp does, we count the embedding's rows, whatever the key says."""
    if key not in fields or fields.values[key] == parameters.vocab_size:
        return ()
    return (f"{key} is {shown(fields.values[key])}, the embedding has {parameters.vocab_size} rows",)


def _check_shapes(
    path: Path, architecture: Architecture, parameters: HyperParameters, tensors: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Raise MalformedError for a tensor that is missing, of another shape or unknown; warn of what is not looked at.

    A tensor that the architecture does not know would change what the model says, so leaving it out is no answer;
    llama.cpp refuses a number of tensors that is not its own too.
    """
    expected = dict(architecture.shapes(parameters))
    for name, shape in expected.items():
        if name not in tensors:
            raise MalformedError(path, name, found="no such tensor", allowed=f"one of shape {shape}")
    expected |= {name: tensor.info.shape for name, tensor in architecture.computed_tensors(parameters).items()}
    for name, shape in expected.items():
        if name in tensors and tensors[name].info.shape != shape:
            raise MalformedError(path, name, found=f"shape {tensors[name].info.shape}", allowed=f"{shape}")
    unknown = [name for name in tensors if name not in expected]
    for name in unknown:
        if not _DERIVED.fullmatch(name):
            allowed = f"the tensors of a {architecture.NAME} of {parameters.n_layers} layers"
            raise MalformedError(path, name, found="an unknown tensor", allowed=allowed)
    return (f"{', '.join(map(shown, unknown[:4]))}: kept, and not looked at",) if unknown else ()


def _check_rows(fields: Fields, vocabulary: Vocabulary | None, parameters: HyperParameters) -> None:
    """The embedding may have rows to spare, but every token needs one."""
    if vocabulary is not None and len(vocabulary) > parameters.vocab_size:
        found = f"{len(vocabulary)} tokens"
        raise fields.error("tokenizer.ggml.tokens", found, f"at most the embedding's {parameters.vocab_size} rows")


def _card(fields: Fields) -> Card:
    """Every `general.` key that is text or a number, but for those that say how the file itself is made."""
    about: dict[str, str | int | float | tuple[str, ...]] = {}
    for key, value in fields.values.items():
        word = key.removeprefix("general.")
        if key.startswith("general.") and word not in OF_THE_FILE and isinstance(value, (str, int, float, tuple)):
            about[word] = value
    return about


def lay_out(
    checkpoint: Checkpoint,
    dtypes: Mapping[str, DType],
    file_name: str,
    file_type: int,
    max_shard_bytes: int | None = None,
    byte_order: str = "little",
    imatrix: Imatrix | None = None,
    provenance: Provenance | None = None,
) -> tuple[OutputFile, ...]:
    """What the checkpoint will be as GGUF, before any weight is read.

    dtypes: the type of each tensor, by GGUF name. file_type: the number of the mix in `general.file_type`
    (`llama_ftype` in llama.h). max_shard_bytes: of tensors in a file; what fits into one is not split. imatrix: what
    the types are searched with. provenance: what the header says of its making. Raises RefusedError for a type that
    GGUF does not have or whose blocks do not divide the tensor's rows.
    """
    architecture = by_gguf_name(checkpoint.path, checkpoint.architecture)
    infos = [
        TensorInfo(name, dtypes[name], checkpoint.tensors[name].info.shape)
        for name in _in_order(checkpoint.tensors, architecture.shapes(checkpoint.hyperparameters))
    ]
    for info in infos:
        _check_dtype(info)
    metadata = _metadata(checkpoint, architecture, infos, file_type)
    if imatrix is not None:
        metadata |= imatrix.keys()
    if provenance is not None:
        metadata |= provenance.keys()
    dialect = Dialect(byte_order="big" if byte_order == "big" else "little")
    groups = [infos] if max_shard_bytes is None else groups_by_size(infos, max_shard_bytes)
    if len(groups) == 1:
        return (lay_out_file(file_name, metadata, infos, dialect),)
    return lay_out_shards(prefix_of(file_name), metadata, groups, dialect)


def _in_order(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The architecture's order, and the rest by name: the same whatever container the names came out of."""
    rank = {name: index for index, name in enumerate(known)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def _check_dtype(info: TensorInfo) -> None:
    if info.dtype.ggml_id is None:
        raise RefusedError(f"{shown(info.name)}: GGUF has no type {info.dtype}")
    if not info.dtype.fits(info.n_columns):
        raise RefusedError(
            f"{shown(info.name)}: {info.dtype} needs rows of a multiple of {info.dtype.block_size} weights, "
            f"these have {info.n_columns}"
        )


def _metadata(
    checkpoint: Checkpoint, architecture: Architecture, infos: Iterable[TensorInfo], file_type: int
) -> dict[str, object]:
    vocabulary = checkpoint.vocabulary
    metadata: dict[str, object] = {"general.architecture": architecture.NAME, "general.type": "model"}
    metadata |= {f"general.{word}": value for word, value in checkpoint.card.items() if value != ()}
    metadata |= architecture.to_gguf(checkpoint.hyperparameters)
    metadata["general.file_type"] = file_type
    if vocabulary is not None:
        metadata |= vocabulary_to_gguf(vocabulary)
    if any(not info.dtype.is_plain for info in infos):
        metadata[_QUANTIZED] = _QUANTIZATION_VERSION
    return metadata
