"""An inspection in words for people and as data for programs. Who shows it escapes what came from files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from converters.errors import shown
from converters.hyperparameters import HyperParameters, cache_bytes
from converters.tokenizers.vocabulary import TokenKind, Vocabulary
from distro import memory
from distro.inspect.container import Key
from distro.inspect.inspection import Inspection
from distro.template_hints import hints
from distro.words import size

CONTEXT_LENGTH = 4096  # tokens of the conversation that memory is predicted for, beside the longest one
_MODELS = {"bpe": "byte-level BPE", "spm": "SentencePiece"}
_ROLES = {
    "begins": "bos_id", "ends": "eos_id", "unknown": "unk_id", "padding": "pad_id",
    "prefix": "fim_prefix_id", "suffix": "fim_suffix_id", "middle": "fim_middle_id",
}  # fmt: skip
_MOST_ELEMENTS = 16  # of an array, in the answer for programs; on a line, _MOST_SHOWN
_MOST_SHOWN = 4
_LONGEST_FACT = 1000  # characters


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """What is worth a line, each with its label; of text out of files as much as a line can be."""
    for label, value in _facts(found):
        yield label, _cut(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_FACT else text[: _LONGEST_FACT - 1] + "…"


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    forms = dict.fromkeys(f"{each.format} {each.form}".rstrip() for each in found.containers)
    headers = sum(each.header_bytes for each in found.containers)
    files = f"{len(found.containers)} files" if len(found.containers) > 1 else "1 file"
    yield "format", f"{'; '.join(forms)}; {files}, {size(found.size)}, of which headers {size(headers)}"
    yield from _names(found)
    if found.architecture:
        shape = f": {_shape(found.parameters)}" if found.parameters else ""
        yield "architecture", found.architecture + shape
    weights = f"{found.n_weights:,} in {len(found.tensors)} tensors"
    yield "weights", f"{weights}, {size(found.n_bytes)}, {found.bits_per_weight:.2f} bits each"
    if found.vocabulary is not None:
        yield from _tokenizer(found.vocabulary)
    if found.parameters is not None:
        yield "memory", _memory(found, found.parameters)
    if found.provenance is not None:
        inputs = found.provenance.inputs
        yield "made by", f"{found.provenance.made_by}, from {_some(tuple(inputs))}, recipe {found.provenance.recipe}"
    if found.receipt is not None:
        how = "" if found.receipt.recipe is not None else "fetched from "  # what was made here says so itself
        origins = dict.fromkeys(entry.source for entry in found.receipt.files.values())
        yield "receipt", f"{found.receipt.model}:{found.receipt.variant}, {how}{_some(tuple(origins))}"
    if found.n_read is not None:
        yield "read", f"{size(found.n_read)} from {found.source}"


def _names(found: Inspection) -> Iterator[tuple[str, str]]:
    for label, keys in (("name", ("general.name", "general.basename")), ("licence", ("general.license",))):
        text = next((text for key in keys if (text := found.text(key))), None)
        if text:
            yield label, text
    kind = found.text("general.type")
    if kind not in (None, "model"):
        yield "kind", str(kind)


def _shape(parameters: HyperParameters) -> str:
    heads = f"{parameters.n_heads} heads"
    if parameters.n_kv_heads != parameters.n_heads:
        heads += f" ({parameters.n_kv_heads} for keys and values)"
    text = f"{parameters.n_layers} layers, dim {parameters.dim}, {heads} of {parameters.head_dim}"
    text += f", hidden {parameters.hidden_dim}, context {parameters.context_length}"
    if parameters.n_experts:
        text += f", {parameters.n_experts_used} of {parameters.n_experts} experts"
    if parameters.sliding_window:
        text += f", window {parameters.sliding_window}"
    scaling = parameters.rope_scaling
    stretched = f" ({scaling.kind} x {scaling.factor:g})" if scaling else ""
    return f"{text}, rope {parameters.rope_theta:g}{stretched}" + (", tied" if parameters.tied_embeddings else "")


def _tokenizer(vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    kind = _MODELS.get(vocabulary.model, vocabulary.model)
    cut = "" if vocabulary.pre_tokenizer == "default" else f" ({vocabulary.pre_tokenizer})"
    yield "tokenizer", f"{kind}{cut}, {len(vocabulary):,} tokens"
    special = [f"{role} {_token(vocabulary, token_id)}" for role, token_id in _special(vocabulary).items()]
    stops = [_token(vocabulary, token_id) for token_id in vocabulary.stop_ids if token_id != vocabulary.eos_id]
    if special or stops:
        yield "tokens", ", ".join(special + [f"stops at {stop}" for stop in stops])
    if vocabulary.chat_template is not None:
        template = vocabulary.chat_template
        digest = hashlib.sha256(template.encode()).hexdigest()
        yield "template", f"{len(template)} characters, sha256 {digest}"
        for hint in hints(template):
            yield "", f"the template {hint}, which is refused when somebody chats"


def _special(vocabulary: Vocabulary) -> dict[str, int]:
    ids = {role: getattr(vocabulary, name) for role, name in _ROLES.items()}
    return {role: token_id for role, token_id in ids.items() if token_id is not None}


def _token(vocabulary: Vocabulary, token_id: int) -> str:
    return f"{shown(vocabulary.tokens[token_id])} ({token_id})"


def _memory(found: Inspection, parameters: HyperParameters) -> str:
    caches = [f"{size(n_bytes)} for {n_tokens:,} tokens" for n_tokens, n_bytes in _caches(parameters).items()]
    needs = found.n_bytes + cache_bytes(parameters, min(CONTEXT_LENGTH, parameters.context_length))
    total = memory.total_bytes()
    fits = "" if total is None else "; fits here" if needs < total else f"; more than the {size(total)} here"
    return f"{size(found.n_bytes)} of weights, {' or '.join(caches)}{fits}"


def _caches(parameters: HyperParameters) -> dict[int, int]:
    """Bytes of keys and values, by length of the conversation."""
    lengths = sorted({min(CONTEXT_LENGTH, parameters.context_length), parameters.context_length})
    return {n_tokens: cache_bytes(parameters, n_tokens) for n_tokens in lengths}


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def value_text(key: Key) -> str:
    """A key's value on a line: of arrays, how many and the first; of text as much as a line can be."""
    value = key.value
    if isinstance(value, (tuple, np.ndarray)):
        first = ", ".join(shown(str(each)) for each in value[:_MOST_SHOWN])
        return f"{len(value)}: {first}{', …' if len(value) > _MOST_SHOWN else ''}"
    return _cut(str(value))


def shape_text(shape: tuple[int, ...]) -> str:
    """`576x1536`, rows first; a scalar has none."""
    return "x".join(map(str, shape)) or "-"


def described(found: Inspection) -> dict[str, Any]:
    """The whole as JSON: sizes in bytes. Arrays among the keys are given by their number and their first elements."""
    return {
        "schema": "distro-inspect/1",
        "reference": found.name,
        "size": found.size,
        "architecture": found.architecture,
        "hyperparameters": asdict(found.parameters) if found.parameters else None,
        "n_weights": found.n_weights,
        "n_bytes": found.n_bytes,
        "bits_per_weight": round(found.bits_per_weight, 4),
        "types": [
            {
                "type": count.dtype.name, "bits_per_weight": count.dtype.bits_per_weight, "n_tensors": count.n_tensors,
                "n_weights": count.n_weights, "n_bytes": count.n_bytes,
            }
            for count in found.types
        ],
        "tokenizer": _tokenizer_described(found.vocabulary) if found.vocabulary else None,
        "memory": {
            "weights": found.n_bytes,
            "cache": {str(n_tokens): n_bytes for n_tokens, n_bytes in _caches(found.parameters).items()},
        } if found.parameters else None,
        "provenance": asdict(found.provenance) if found.provenance else None,
        "receipt": _receipt_described(found),
        "note": found.note or None,
        "warnings": list(found.warnings),
        "source": found.source or None,
        "n_read": found.n_read,
        "files": [
            {
                "name": each.name, "format": each.format, "form": each.form, "size": each.size,
                "header_bytes": each.header_bytes, "n_tensors": len(each.tensors),
                "keys": {name: {"type": key.type, **_value_described(key.value)} for name, key in each.keys.items()},
            }
            for each in found.containers
        ],
        "tensors": [
            {
                "name": info.name, "file": container.name, "type": info.dtype.name, "shape": list(info.shape),
                "n_bytes": info.n_bytes, "offset": offset,
            }
            for container, info, offset in found.tensors
        ],
    }  # fmt: skip


def _tokenizer_described(vocabulary: Vocabulary) -> dict[str, Any]:
    template = vocabulary.chat_template
    kinds = {kind.name.lower(): vocabulary.kinds.count(kind) for kind in TokenKind}
    return {
        "model": vocabulary.model,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "n_tokens": len(vocabulary),
        "n_merges": None if vocabulary.merges is None else len(vocabulary.merges),
        "kinds": {name: count for name, count in kinds.items() if count},
        "special": {
            _ROLES[role]: {"id": token_id, "text": vocabulary.tokens[token_id]}
            for role, token_id in _special(vocabulary).items()
        },
        "stop_ids": list(vocabulary.stop_ids),
        "add_bos": vocabulary.add_bos,
        "add_eos": vocabulary.add_eos,
        "chat_template": None if template is None else {
            "n_characters": len(template),
            "sha256": hashlib.sha256(template.encode()).hexdigest(),
            "hints": list(hints(template)),
        },
    }  # fmt: skip


def _receipt_described(found: Inspection) -> dict[str, Any] | None:
    receipt = found.receipt
    if receipt is None:
        return None
    files: Mapping[str, Any] = {path: vars(entry) for path, entry in receipt.files.items()}
    return {
        "model": receipt.model, "variant": receipt.variant, "files": files,
        "recipe": receipt.recipe, "inputs": dict(receipt.inputs),
    }  # fmt: skip


def _value_described(value: object) -> dict[str, Any]:
    if isinstance(value, (tuple, np.ndarray)):
        first = value[:_MOST_ELEMENTS]
        elements = first.tolist() if isinstance(first, np.ndarray) else list(first)
        return {"count": len(value), "first": [_number(each) for each in elements]}
    return {"value": _number(value)}


def _number(value: object) -> object:
    """JSON has no number for what is none."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
