"""A folder as Meta and Mistral release a model: params.json, consolidated files of weights, a tokenizer of their own.

    params.json                hyper-parameters; the architecture's module speaks its dialects
    README.md                  what the model says of itself (`converters.model_card`)
    consolidated.00.pth …      weights in PyTorch's format, divided over shards (`converters.formats.meta_shards`)
    consolidated.safetensors   Mistral's newer releases, or consolidated-00001-of-00051.safetensors … and an index
    tokenizer.model …          `converters.tokenizers.meta`; LLaMA 1 keeps it in the folder above
    checklist.chk …            MD5 of these files (`converters.checklist`); `distro verify` compares them

`Llama.build` in meta-llama/llama, llama/generation.py; `Transformer.from_folder` in mistralai/mistral-inference. A file
of weights may also be named itself, if params.json lies beside it. A folder that holds this and Hugging Face's layout,
as Mistral's on the hub, is opened as Hugging Face's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from converters import checklist, json_file, model_card
from converters.architectures import by_gguf_name, by_params
from converters.architectures.base import Architecture
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import ConversionError, MissingError, RefusedError
from converters.fields import Fields
from converters.folder import inside
from converters.formats import huggingface, meta_shards, pytorch, pytorch_writer, safetensors
from converters.input_file import InputFile, Opener
from converters.layout import OutputFile, PlacedTensor
from converters.provenance import Provenance
from converters.tensors import TensorInfo
from converters.tokenizers import tekken
from converters.tokenizers.meta import meta_vocabulary_files, read_meta_vocabulary

NAME = "meta"

_LARGEST_PARAMS = 1 << 20
_WRITABLE = ("F32", "F16", "BF16")
_OF_META = re.compile(
    r"tok_embeddings\.weight|layers\.[0-9]+\.(?:attention\.w[qkvo]|feed_forward\.w[123]|attention_norm|ffn_norm)\.weight"
)
_ABOUT_TOKENS = re.compile(
    r"tokenizer\.(?:json|model(?:\.v[0-9a-z]+)?)|tekken\.json|(?:tokenizer_config|special_tokens_map|added_tokens"
    r"|generation_config)\.json|chat_template\.jinja"
)


def sniff(path: Path) -> bool:
    """Whether this is a folder with a params.json, or a file of weights beside one.

    Where Hugging Face's layout is there too, a folder is that, and a file is what the names in it say.
    """
    folder = path if path.is_dir() else path.parent
    if not os.path.lexists(folder / "params.json"):  # a link that leads nowhere is missed by who opens it
        return False
    if not (folder / "config.json").exists():
        return path.is_dir() or pytorch.sniff(path) or safetensors.sniff(path)
    if path.is_dir():
        return any(folder.glob("consolidated.*")) and not huggingface.has_weights(folder)
    return _has_metas_names(path)


def _has_metas_names(path: Path) -> bool:
    try:
        with InputFile(path) as file:
            tensors = safetensors.read_header(file).tensors if safetensors.sniff(path) else pytorch.read_tensors(file)
    except (ConversionError, OSError):
        return False
    return any(_OF_META.fullmatch(name) for name in tensors)


def open_checkpoint(path: Path, *, opener: Opener = InputFile) -> Checkpoint:
    """The model in a folder, or the one that this file of weights belongs to.

    Every shard is judged before anything else, so that one that names code is called so whatever it lies beside.
    Raises MissingError for params.json, a shard, or a file that a checklist names; MalformedError naming the tensor and
    the shard, or the key as a JSON pointer; UnsafeError for weights that name code and links that leave the folder;
    UnsupportedError for what is no plain decoder.
    """
    folder = path if path.is_dir() else path.parent
    with ExitStack() as stack:
        paths = meta_shards.find(path)
        shards = meta_shards.read(stack, opener, paths)
        params = _params_of(folder)
        indices = [each for each in paths if each.name == meta_shards.INDEX]
        checklists = _check_lists(folder)
        architecture = by_params(params)
        parameters = architecture.from_params(params, *meta_shards.embedding(shards))
        if meta_shards.is_tied(shards):
            parameters = replace(parameters, tied_embeddings=True)
        tensors, dropped = meta_shards.join(architecture, parameters, shards)
        home, notes = _tokenizers_home(folder)
        checkpoint = Checkpoint(
            path=path,
            format=NAME,
            architecture=architecture.NAME,
            hyperparameters=parameters,
            vocabulary=read_meta_vocabulary(
                home, parameters.vocab_size, scaled_rope=parameters.rope_scaling is not None
            ),
            tensors=tensors | dict(architecture.computed_tensors(parameters)),
            files=tuple(file for shard in shards for file in shard.files),
            companions=(params.path, *indices, *checklists, *_files_of_tokenizer(home), *_card_of(folder)),
            card=model_card.read(folder),
            warnings=(*notes, *dropped),
        )
        checkpoint.check_unchanged()
        stack.pop_all()
    return checkpoint


def _params_of(folder: Path) -> Fields:
    path = inside(folder, "params.json")
    if not path.exists():
        raise MissingError(path, "hyper-parameters were expected beside the weights")
    params = Fields(path, json_file.read(path, max_bytes=_LARGEST_PARAMS), "/")
    return params.section("model") or params  # as some were saved, and as transformers' converter reads them


def _check_lists(folder: Path) -> tuple[Path, ...]:
    """The checklists, once all files are there that they name; MD5 is compared by who wants to pay for it."""
    paths = checklist.find(folder)
    for path in paths:
        for name in checklist.read(path):
            if not (folder / name).exists():
                raise MissingError(folder / name, f"{path.name} names it")
    return paths


def _tokenizers_home(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of the tokenizer's files: this one, or the one above if only there is a tokenizer.model."""
    above = folder.resolve().parent
    if _files_of_tokenizer(folder) or not (above / "tokenizer.model").is_file():
        return folder, ()
    return above, (f"{above / 'tokenizer.model'} is read, {folder} has no tokenizer",)


def _files_of_tokenizer(folder: Path) -> list[Path]:
    """Raises UnsafeError for a link that leaves the folder."""
    return sorted(inside(folder, path.name) for path in folder.iterdir() if _ABOUT_TOKENS.fullmatch(path.name))


def _card_of(folder: Path) -> list[Path]:
    return [path for path in [folder / model_card.NAME] if path.is_file()]


def lay_out(
    checkpoint: Checkpoint,
    dtype: DType,
    target: str,
    n_shards: int | None = None,
    provenance: Provenance | None = None,
) -> tuple[OutputFile, ...]:
    """The folder that Meta's or Mistral's own code opens: params.json, the tokenizer's files, weights.

    dtype: of all weights. target: "pth" for Meta's consolidated.NN.pth, "mistral" for one consolidated.safetensors.
    n_shards: of a pth folder, one if nobody says. provenance: what the files of weights say of their making. There is
    no checklist.chk: nobody knows the MD5 of what is not there yet.

    Meta's code has no tied embeddings, so a pth folder holds the embedding a second time as the output, and params.json
    says `tied_embeddings`. The embedding is divided by its rows where the vocabulary is byte-level BPE, as Llama 3's
    code expects it, else by its columns.

    Raises RefusedError for hyper-parameters that params.json has no word for and for shards that would not be equal.
    """
    if dtype.name not in _WRITABLE:
        raise RefusedError(f"{checkpoint.path}: {target} folders are written in {', '.join(_WRITABLE)}, not in {dtype}")
    architecture = by_gguf_name(checkpoint.path, checkpoint.architecture)
    parameters, vocabulary = checkpoint.hyperparameters, checkpoint.vocabulary
    texts = _texts(checkpoint, architecture, dtype, target)
    wholes = {
        theirs: PlacedTensor(TensorInfo(theirs, dtype, checkpoint.tensors[ours].info.shape), ours, 0)
        for ours, theirs in architecture.meta_names(parameters).items()
    }
    if target == "mistral":
        weights = [safetensors.lay_out_file(meta_shards.SAFETENSORS, wholes.values(), provenance)]
    else:
        if parameters.tied_embeddings:
            embedding = wholes[meta_shards.EMBEDDING]
            wholes[meta_shards.OUTPUT] = replace(embedding, info=replace(embedding.info, name=meta_shards.OUTPUT))
        axes = {name: architecture.meta_axis(whole.source) for name, whole in wholes.items()}
        if vocabulary is None or vocabulary.model != "bpe":
            axes[meta_shards.EMBEDDING] = 1
        _check_divides(checkpoint, n_shards or 1, axes[meta_shards.EMBEDDING])
        weights = _shards(wholes, axes, n_shards or 1, provenance)
    return (*(OutputFile(name, len(text), text) for name, text in texts.items()), *weights)


def _texts(checkpoint: Checkpoint, architecture: Architecture, dtype: DType, target: str) -> dict[str, bytes]:
    """All files but the weights, by name."""
    parameters, own_tokenizer = checkpoint.hyperparameters, None
    if target == "mistral":
        params, scaled_rope = architecture.to_mistral_params(parameters), False
        own_tokenizer = next((path for path in checkpoint.companions if path.name == tekken.FILE), None)
    else:
        params, scaled_rope = architecture.to_meta_params(parameters, dtype), parameters.rope_scaling is not None
    texts = {"params.json": (json.dumps(params) + "\n").encode()}
    if checkpoint.vocabulary is not None:
        texts |= meta_vocabulary_files(checkpoint.vocabulary, scaled_rope=scaled_rope, own=own_tokenizer)
    if (card := model_card.write(checkpoint.card)) is not None:
        texts[model_card.NAME] = card
    return texts


def _shards(
    wholes: Mapping[str, PlacedTensor], axes: Mapping[str, int | None], n_shards: int, provenance: Provenance | None
) -> list[OutputFile]:
    """Meta's files, each with its part of every tensor."""
    return [
        pytorch_writer.lay_out_file(
            meta_shards.shard_name(number),
            [_part(whole, axes[name], number, n_shards) for name, whole in wholes.items()],
            provenance,
        )
        for number in range(n_shards)
    ]


def _part(whole: PlacedTensor, axis: int | None, number: int, n_shards: int) -> PlacedTensor:
    """What one of the shards has of a tensor."""
    if axis is None:
        return whole
    length = whole.info.shape[axis] // n_shards
    shape = tuple(length if each == axis else size for each, size in enumerate(whole.info.shape))
    first_row, first_column = (number * length, 0) if axis == 0 else (0, number * length)
    return replace(whole, info=replace(whole.info, shape=shape), first_row=first_row, first_column=first_column)


def _check_divides(checkpoint: Checkpoint, n_shards: int, embedding_axis: int | None) -> None:
    """Meta's code gives every GPU as many heads, columns of the network and rows of the output as the next one."""
    p = checkpoint.hyperparameters
    counts = {"n_heads": p.n_heads, "n_kv_heads": p.n_kv_heads, "hidden_dim": p.hidden_dim, "vocab_size": p.vocab_size}
    if embedding_axis == 1:
        counts["dim"] = p.dim
    for name, count in counts.items():
        if count % n_shards:
            raise RefusedError(f"{checkpoint.path}: {name} {count} cannot be divided over {n_shards} shards")
