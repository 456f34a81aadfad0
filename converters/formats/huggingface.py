"""A folder as Hugging Face's libraries keep a model, with its weights in safetensors or in PyTorch's files.

    config.json                     hyper-parameters; the architecture's module speaks its dialect
    tokenizer.json …                `converters.tokenizers.huggingface`
    README.md                       what the model says of itself (`converters.model_card`)
    model.safetensors …             `converters.formats.huggingface_weights`, or pytorch_model.bin …

A file of weights may also be named itself, if config.json lies beside it. Code that config.json points to (`auto_map`)
is never read.

A tensor that the architecture does not know is an error: with it the model would be another one than we carry on. Only
what follows from the hyper-parameters may be there too, and a tied output that stands for the embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from converters import dtypes, json_file, model_card
from converters.architectures import by_gguf_name, by_hf_class
from converters.architectures.base import Architecture
from converters.architectures.rows import halves_from_pairs, pairs_from_halves
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import MalformedError, MissingError, RefusedError, UnsupportedError
from converters.fields import Fields
from converters.folder import inside
from converters.formats import huggingface_weights, pytorch, pytorch_writer, safetensors
from converters.formats.huggingface_weights import Weights
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile, Opener
from converters.layout import OutputFile, PlacedTensor
from converters.provenance import Provenance
from converters.tensors import FileTensor, RenamedTensor, ReorderedTensor, Tensor, TensorInfo
from converters.tokenizers.huggingface import read_vocabulary, vocabulary_files
from converters.tokenizers.vocabulary import Vocabulary

NAME = "huggingface"

_LARGEST_CONFIG = 16 << 20
_DEFAULT_SHARD_BYTES = 5_000_000_000  # what Hugging Face's own tools write
_DTYPES = {"float32": dtypes.F32, "float16": dtypes.F16, "bfloat16": dtypes.BF16}
_WRITABLE = {dtype: name for name, dtype in _DTYPES.items()}
# By target: how its files of weights begin and end.
_FILES = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin")}
# What is read besides config.json and the weights.
_COMPANIONS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "chat_template.jinja", model_card.NAME,
)  # fmt: skip
_NAMES_OF_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
_OUTPUT = "lm_head.weight"
# Old checkpoints hold the rotary frequencies, which follow from the hyper-parameters.
_DERIVED = ".rotary_emb.inv_freq"


def sniff(path: Path) -> bool:
    """Whether this is a folder with a config.json, or a file of weights in one of the two formats."""
    if path.is_dir():
        return (path / "config.json").exists()
    return safetensors.sniff(path) or pytorch.sniff(path)


def has_weights(folder: Path) -> bool:
    """Whether weights lie in a folder under one of the names that transformers looks for."""
    return huggingface_weights.are_in(folder)


def open_checkpoint(path: Path, *, opener: Opener = InputFile) -> Checkpoint:
    """The model in a folder, or the one whose weights are this file.

    Every shard is judged before anything else, so that one that names code is called so whatever it lies beside.
    Raises MissingError for config.json or a shard that is not there, MalformedError naming the tensor, the key as a
    JSON pointer, or the shard; UnsafeError for weights that name code and links that leave the folder;
    UnsupportedError for architectures and quantization schemes that we do not read.
    """
    folder = path if path.is_dir() else path.parent
    _check_links(folder)
    with ExitStack() as stack:
        weights = huggingface_weights.find(folder) if path.is_dir() else huggingface_weights.in_file(path)
        found, files = huggingface_weights.read(stack, opener, folder, weights)
        config = _config_of(folder, path.name)
        architecture = _architecture(config)
        parameters = architecture.from_config(config)
        tensors, dropped = _by_gguf_name(architecture, parameters, found, weights.index or files[0].path)
        vocabulary = read_vocabulary(folder, parameters.vocab_size)
        checkpoint = Checkpoint(
            path=path,
            format=weights.format,
            architecture=architecture.NAME,
            hyperparameters=parameters,
            vocabulary=vocabulary,
            tensors=tensors | dict(architecture.computed_tensors(parameters)),
            files=files,
            companions=_companions(folder, weights),
            card=model_card.read(folder),
            warnings=(*_config_warnings(config, tensors), *weights.warnings, *_size_warnings(weights, found), *dropped),
        )
        checkpoint.check_unchanged()
        stack.pop_all()
    return checkpoint


def _check_links(folder: Path) -> None:
    """Configuration, tokenizer and templates are carried into results, so they must be this folder's own."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja", ".model"):
            inside(folder, path.name)


def _companions(folder: Path, weights: Weights) -> tuple[Path, ...]:
    """The small files that the folder has."""
    names = ("config.json", *([] if weights.index is None else [weights.index.name]), *_COMPANIONS)
    return tuple(path for path in (folder / name for name in names) if path.is_file())


def _config_of(folder: Path, beside: str) -> Fields:
    """config.json of plain weights; quantized ones are numbers that mean something else."""
    path = folder / "config.json"
    if not path.exists():
        raise MissingError(path, f"hyper-parameters were expected beside {beside}")
    config = Fields(path, json_file.read(path, max_bytes=_LARGEST_CONFIG), "/")
    quantization = config.section("quantization_config")
    if quantization is not None:
        raise UnsupportedError(
            config.path, "/quantization_config/quant_method",
            found=quantization.values.get("quant_method"), allowed="weights in F32, F16 or BF16",
        )  # fmt: skip
    return config


def _architecture(config: Fields) -> Architecture:
    classes = config.values.get("architectures")
    if not isinstance(classes, list) or len(classes) != 1:
        found = f"{len(classes)} entries" if isinstance(classes, list) else type(classes).__name__
        raise config.error("architectures", found, "a list of one class")
    return by_hf_class(config.path, classes[0])


def _config_warnings(config: Fields, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    warnings = [f"config.json: {key} is ignored, no code of a model is run" for key in _NAMES_OF_CODE if key in config]
    key = "dtype" if "dtype" in config else "torch_dtype"
    stored = {tensor.info.dtype for tensor in tensors.values()}
    said = config.values.get(key)
    if said is not None and (not isinstance(said, str) or _DTYPES.get(said.removeprefix("torch.")) not in stored):
        names = ", ".join(sorted(dtype.name for dtype in stored))
        warnings.append(f"config.json: {key} is {said!r}, the tensors are {names}")
    return tuple(warnings)


def _size_warnings(weights: Weights, found: Mapping[str, FileTensor]) -> tuple[str, ...]:
    total = sum(tensor.info.n_bytes for tensor in found.values())
    if weights.index is None or weights.total_size in (None, total):
        return ()
    return (f"{weights.index.name}: total_size is {weights.total_size}, the tensors have {total} bytes",)


def _by_gguf_name(
    architecture: Architecture, parameters: HyperParameters, found: dict[str, FileTensor], path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under the names and in the row order that we use between formats, and what was left out.

    path: of the index or the one file, where a tensor is missing.
    """
    tensors: dict[str, Tensor] = {}
    shapes = architecture.shapes(parameters)
    order = pairs_from_halves(parameters.head_dim)
    left = dict(found)
    for ours, theirs in architecture.hf_names(parameters).items():
        stored = left.pop(theirs, None)
        if stored is None:
            raise MalformedError(path, theirs, found="no such tensor", allowed=f"one of shape {shapes[ours]}")
        _check_info(stored, shapes[ours])
        renamed = RenamedTensor(stored, ours)
        tensors[ours] = ReorderedTensor(renamed, order) if architecture.heads_to_reorder(ours, parameters) else renamed
    taken = {(each.file.path, each.offset_in_file) for name, each in found.items() if name not in left}
    dropped = []
    for name, stored in left.items():
        if name == _OUTPUT and parameters.tied_embeddings:
            if (stored.file.path, stored.offset_in_file) not in taken:  # PyTorch's files hold both names of one storage
                dropped.append(f"{name} is not read: by config.json (tie_word_embeddings) the embedding is the output")
        elif not name.endswith(_DERIVED):
            allowed = f"the tensors of a {architecture.NAME} of {parameters.n_layers} layers"
            raise MalformedError(stored.file.path, name, found="an unknown tensor", allowed=allowed)
    return tensors, tuple(dropped)


def _check_info(stored: FileTensor, shape: tuple[int, ...]) -> None:
    info = stored.info
    if info.shape != shape:
        raise MalformedError(stored.file.path, info.name, found=f"shape {info.shape}", allowed=f"{shape}")
    if info.dtype not in _WRITABLE:
        allowed = ", ".join(dtype.name for dtype in _WRITABLE)
        raise UnsupportedError(stored.file.path, info.name, found=f"type {info.dtype}", allowed=allowed)


def lay_out(
    checkpoint: Checkpoint,
    dtype: DType,
    target: str = "safetensors",
    max_shard_bytes: int | None = None,
    provenance: Provenance | None = None,
) -> tuple[OutputFile, ...]:
    """The folder that transformers opens: config.json, the tokenizer's files, weights in one file or in shards.

    dtype: of all weights. target: "safetensors", or "bin" for PyTorch's files. max_shard_bytes: of weights in a shard;
    a tensor that is larger has one for itself. provenance: what the files of weights say of their making. The result
    depends on the checkpoint's content and on these alone. Raises RefusedError for a dtype that neither kind holds and
    for more shards than are read.
    """
    if dtype not in _WRITABLE:
        allowed = ", ".join(each.name for each in _WRITABLE)
        raise RefusedError(f"{checkpoint.path}: {target} folders are written in {allowed}, not in {dtype}")
    architecture = by_gguf_name(checkpoint.path, checkpoint.architecture)
    vocabulary, parameters = checkpoint.vocabulary, checkpoint.hyperparameters
    texts = {"config.json": _json(_config(architecture, parameters, vocabulary, dtype))}
    if vocabulary is not None:
        texts |= vocabulary_files(vocabulary, context_length=parameters.context_length)
    sources = {theirs: ours for ours, theirs in architecture.hf_names(parameters).items()}
    infos = [TensorInfo(theirs, dtype, checkpoint.tensors[ours].info.shape) for theirs, ours in sources.items()]
    shards = _split(infos, max_shard_bytes or _DEFAULT_SHARD_BYTES, *_FILES[target])
    if len(shards) > huggingface_weights.MOST_SHARDS:
        most = huggingface_weights.MOST_SHARDS
        raise RefusedError(f"{checkpoint.path}: {len(shards)} shards, allowed at most {most}; let each hold more")
    if len(shards) > 1:
        texts["".join(_FILES[target]) + ".index.json"] = _json(_index(shards))
    if (card := model_card.write(checkpoint.card)) is not None:
        texts[model_card.NAME] = card
    order = halves_from_pairs(parameters.head_dim)
    row_orders = {theirs: order for theirs, ours in sources.items() if architecture.heads_to_reorder(ours, parameters)}
    lay_out_shard = safetensors.lay_out_file if target == "safetensors" else pytorch_writer.lay_out_file
    weights = [
        lay_out_shard(
            name,
            [PlacedTensor(info, sources[info.name], 0, row_orders.get(info.name)) for info in shard],
            provenance,
        )
        for name, shard in shards.items()
    ]
    return (*(OutputFile(name, len(text), text) for name, text in texts.items()), *weights)


def _config(
    architecture: Architecture, parameters: HyperParameters, vocabulary: Vocabulary | None, dtype: DType
) -> dict[str, object]:
    """config.json. `torch_dtype` is the key that every version of transformers reads, the newest calls it `dtype`."""
    config = architecture.to_config(parameters) | {"torch_dtype": _WRITABLE[dtype]}
    if vocabulary is not None:
        ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "pad": vocabulary.pad_id}
        config |= {f"{role}_token_id": token_id for role, token_id in ids.items()}
    return dict(sorted(config.items()))


def _split(infos: Iterable[TensorInfo], max_shard_bytes: int, stem: str, ending: str) -> dict[str, list[TensorInfo]]:
    """Shards by file name, filled in order."""
    shards: list[list[TensorInfo]] = []
    room = 0
    for info in infos:
        if not shards or info.n_bytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(info)
        room -= info.n_bytes
    if len(shards) == 1:
        return {f"{stem}{ending}": shards[0]}
    return {f"{stem}-{i + 1:05d}-of-{len(shards):05d}{ending}": shard for i, shard in enumerate(shards)}


def _index(shards: Mapping[str, list[TensorInfo]]) -> dict[str, object]:
    total_size = sum(info.n_bytes for shard in shards.values() for info in shard)
    where = {info.name: file_name for file_name, shard in shards.items() for info in shard}
    return {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(where.items()))}


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
