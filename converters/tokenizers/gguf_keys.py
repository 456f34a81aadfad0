"""A vocabulary in GGUF's keys, both ways.

Keys: `Keys.Tokenizer` in gguf-py/gguf/constants.py. What an absent key means: `llama_vocab::impl::load` in llama.cpp's
src/llama-vocab.cpp. GGUF has places for three tokens that end an answer (eos, eot, eom) and none for more. The tokens
of fill-in-the-middle have two keys each; the older one, which every reader knows, is written.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from converters.errors import UnsupportedError
from converters.fields import Fields
from converters.tokenizers.vocabulary import KINDS, TokenKind, Vocabulary, fill_in_ids, judged, stop_ids

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_MODELS = {"gpt2": "bpe", "llama": "spm"}
_ADD_BOS_BY_DEFAULT = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
_IDS = {"bos_id": "bos_token_id", "eos_id": "eos_token_id", "unk_id": "unknown_token_id", "pad_id": "padding_token_id"}
_FILL_IN = {
    "fim_prefix_id": ("prefix_token_id", "fim_pre_token_id"),
    "fim_suffix_id": ("suffix_token_id", "fim_suf_token_id"),
    "fim_middle_id": ("middle_token_id", "fim_mid_token_id"),
}
_NAMES = {
    "tokens": "tokens", "kinds": "token_type", "scores": "scores", "merges": "merges", "stop_ids": "eot_token_id",
    "add_bos": "add_bos_token", "add_eos": "add_eos_token", **_IDS,
    **{ours: older for ours, (older, _) in _FILL_IN.items()},
}  # fmt: skip


def vocabulary_from_gguf(fields: Fields) -> Vocabulary | None:
    """The vocabulary that a file's keys describe; None where it has none.

    Raises MalformedError naming the key for wrong types, lengths, ids and texts, UnsupportedError for tokenizers other
    than byte-level BPE and SentencePiece BPE.
    """
    if f"{_PREFIX}model" not in fields or fields.string(f"{_PREFIX}model") == "none":
        return None
    name = fields.string(f"{_PREFIX}model")
    if name not in _MODELS:
        key = f"{_PREFIX}model"
        raise UnsupportedError(fields.path, key, found=name, allowed=" or ".join(_MODELS))
    model = _MODELS[name]
    tokens = _texts(fields, "tokens")
    kinds = _kinds(fields, len(tokens), required=model == "spm")
    template = fields.string(_TEMPLATE) if _TEMPLATE in fields else None
    defaults = {"bos_id": 1, "eos_id": 2, "unk_id": 0} if model == "spm" and len(tokens) > 2 else {}
    ids = {ours: _token_id(fields, theirs, defaults.get(ours)) for ours, theirs in _IDS.items()}
    ends = [ids["eos_id"], *(_token_id(fields, f"{end}_token_id") for end in ("eot", "eom"))]
    fill_in = [
        _token_id(fields, older, _token_id(fields, newer, by_text))
        for (older, newer), by_text in zip(_FILL_IN.values(), fill_in_ids(tokens), strict=True)
    ]
    pre_tokenizer = "default" if model == "spm" else fields.string(f"{_PREFIX}pre", default="default")
    add_bos = model == "spm" or pre_tokenizer in _ADD_BOS_BY_DEFAULT
    vocabulary = Vocabulary(
        model=model,
        pre_tokenizer=pre_tokenizer,
        tokens=tokens,
        kinds=kinds,
        scores=_scores(fields) if model == "spm" else None,
        merges=_texts(fields, "merges") if model == "bpe" else None,
        bos_id=ids["bos_id"],
        eos_id=ids["eos_id"],
        unk_id=ids["unk_id"],
        pad_id=ids["pad_id"],
        stop_ids=stop_ids(ends, tokens, kinds, template),
        add_bos=fields.boolean(f"{_PREFIX}add_bos_token", default=add_bos and ids["bos_id"] is not None),
        add_eos=fields.boolean(f"{_PREFIX}add_eos_token", default=False),
        add_space_prefix=fields.boolean(f"{_PREFIX}add_space_prefix", default=model == "spm"),
        chat_template=template,
        fim_prefix_id=fill_in[0],
        fim_suffix_id=fill_in[1],
        fim_middle_id=fill_in[2],
    )
    names = {ours: _PREFIX + theirs for ours, theirs in _NAMES.items()} | {"chat_template": _TEMPLATE}
    return judged(fields.path, vocabulary, names)


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    key = _PREFIX + name
    value = fields.values.get(key)
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise fields.error(key, _kind_of(value), "an array of STRING")
    return tuple(value)


def _kinds(fields: Fields, n_tokens: int, *, required: bool) -> tuple[TokenKind, ...]:
    key = f"{_PREFIX}token_type"
    if key not in fields and not required:
        return (TokenKind.NORMAL,) * n_tokens
    value = fields.values.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise fields.error(key, _kind_of(value), "an array of INT32")
    numbers = value.tolist()
    for token_id, number in enumerate(numbers):
        if number not in KINDS:
            raise fields.error(f"{key}[{token_id}]", number, "a type from 1 to 6")
    return tuple(KINDS[number] for number in numbers)


def _scores(fields: Fields) -> tuple[float, ...]:
    key = f"{_PREFIX}scores"
    value = fields.values.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise fields.error(key, _kind_of(value), "an array of FLOAT32")
    return tuple(value.tolist())


def _token_id(fields: Fields, name: str, default: int | None = None) -> int | None:
    key = _PREFIX + name
    return fields.integer(key, minimum=0, maximum=2**32 - 1) if key in fields else default


def _kind_of(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"an array of {type(value[0]).__name__}" if isinstance(value, (list, tuple)) and value else repr(value)


def vocabulary_to_gguf(vocabulary: Vocabulary) -> dict[str, object]:
    """The keys of a vocabulary, in llama.cpp's order: lists of str, int32 and float32 arrays, ints, bools, str.

    Raises UnsupportedError where more tokens end an answer than GGUF has keys for.
    """
    keys: dict[str, object] = {
        "model": next(theirs for theirs, ours in _MODELS.items() if ours == vocabulary.model),
        "pre": vocabulary.pre_tokenizer,
        "tokens": list(vocabulary.tokens),
    }
    if vocabulary.scores is not None:
        keys["scores"] = np.array(vocabulary.scores, np.float32)
    keys["token_type"] = cast(npt.NDArray[np.int32], np.array(vocabulary.kinds, np.int32))
    if vocabulary.merges is not None:
        keys["merges"] = list(vocabulary.merges)
    for ours, theirs in (_IDS | {ours: older for ours, (older, _) in _FILL_IN.items()}).items():
        if (token_id := getattr(vocabulary, ours)) is not None:
            keys[theirs] = token_id
    keys |= _other_ends(vocabulary)
    keys["add_bos_token"], keys["add_eos_token"] = vocabulary.add_bos, vocabulary.add_eos
    keys["add_space_prefix"] = vocabulary.add_space_prefix
    result = {_PREFIX + name: value for name, value in keys.items()}
    if vocabulary.chat_template is not None:
        result[_TEMPLATE] = vocabulary.chat_template
    return result


def _other_ends(vocabulary: Vocabulary) -> dict[str, object]:
    others = [token_id for token_id in vocabulary.stop_ids if token_id != vocabulary.eos_id]
    if len(others) > 2:
        allowed = "the end of the text, of a turn and of a message"
        raise UnsupportedError("tokenizer", "stop tokens in GGUF", found=vocabulary.stop_ids, allowed=allowed)
    others.sort(key=lambda token_id: vocabulary.tokens[token_id] == "<|eom_id|>")
    return dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))
