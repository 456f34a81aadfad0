"""tokenizer.json, the file of Hugging Face's tokenizers: a BPE model with what happens to text around it.

Written with every used token in `model.vocab` and the special ones in `added_tokens` too, so that ids never depend on
an order of adding. Unused tokens ([PAD32001]) are left out; whoever reads the file fills the gaps up to the number of
rows of the embedding.

Byte-level BPE gets its cut from `converters.tokenizers.pre_tokenizers`. SentencePiece becomes BPE with byte fallback:
a space in front of each stretch of text, "▁" for every space, merges from scores. Where the ids then differ from
SentencePiece's own:
- after a special or user-defined token in the text a new stretch begins, which gets its space (as in llama.cpp);
- a character that is no token never joins its neighbours (SentencePiece would let it, if the joint text were a token);
- `converters.tokenizers.merges` says when equal scores are resolved otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from converters.errors import MalformedError, UnsupportedError
from converters.fields import Fields
from converters.tokenizers import pre_tokenizers
from converters.tokenizers.merges import merges_from_scores, scores_from_merges
from converters.tokenizers.vocabulary import TokenKind, Vocabulary, byte_of

MOST_ADDED_TOKENS = 50_000  # the most known (Gemma 3) are some 6,400
_PREFIX = {"type": "Prepend", "prepend": "▁"}
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_ADDED_KINDS = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)


def write(vocabulary: Vocabulary) -> bytes:
    """The file's bytes: the same for the same vocabulary. Raises UnsupportedError for a cut that has no description."""
    describe = _describe_bpe if vocabulary.model == "bpe" else _describe_spm
    normalizer, pre_tokenizer, decoder, options, merges = describe(vocabulary)
    used = [
        (token, token_id)
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind is not TokenKind.UNUSED or token != padding(token_id)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": int(token_id), **flags} for token_id, flags in added_tokens(vocabulary).items()],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _post_processor(vocabulary),
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            **options, "vocab": dict(used), "merges": merges,
        },
    }  # fmt: skip
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def added_tokens(vocabulary: Vocabulary) -> dict[str, dict[str, object]]:
    """What is found in text before all else, by id: control tokens (special) and user-defined ones."""
    return {
        str(token_id): {
            "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": kind is not TokenKind.USER_DEFINED,
        }
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in _ADDED_KINDS
    }  # fmt: skip


_Described = tuple[object, object, object, dict[str, object], list[tuple[str, str]]]


def _describe_bpe(vocabulary: Vocabulary) -> _Described:
    cut = pre_tokenizers.by_name(vocabulary.pre_tokenizer)
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges or ())]
    return cut.normalizer, cut.pre_tokenizer, decoder, {"ignore_merges": cut.ignore_merges}, merges


def _describe_spm(vocabulary: Vocabulary) -> _Described:
    normalizer: object = {"type": "Sequence", "normalizers": [_PREFIX, _SPACES]}
    pre_tokenizer: object = None
    steps: list[object] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if not vocabulary.add_space_prefix:
        normalizer = _SPACES
    elif vocabulary.prefix_scheme == "first":
        normalizer = None
        pre_tokenizer = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    if vocabulary.add_space_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    options: dict[str, object] = {"fuse_unk": True, "byte_fallback": TokenKind.BYTE in vocabulary.kinds}
    if vocabulary.unk_id is not None:
        options["unk_token"] = vocabulary.tokens[vocabulary.unk_id]
    decoder = {"type": "Sequence", "decoders": steps}
    return normalizer, pre_tokenizer, decoder, options, merges_from_scores(vocabulary)


def _post_processor(vocabulary: Vocabulary) -> object:
    """`<s> text </s>`, each where it is wanted; None where none is."""
    first = vocabulary.bos_id if vocabulary.add_bos else None
    last = vocabulary.eos_id if vocabulary.add_eos else None
    if first is None and last is None:
        return None

    def around(letter: str, type_id: int) -> list[object]:
        begin, end = (
            [] if token_id is None else [{"SpecialToken": {"id": vocabulary.tokens[token_id], "type_id": type_id}}]
            for token_id in (first, last)
        )
        return [*begin, {"Sequence": {"id": letter, "type_id": type_id}}, *end]

    special = {
        vocabulary.tokens[token_id]: {
            "id": vocabulary.tokens[token_id], "ids": [token_id], "tokens": [vocabulary.tokens[token_id]]
        }
        for token_id in (first, last) if token_id is not None
    }  # fmt: skip
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": special,
    }


def read(path: Path, document: Mapping[str, object], n_rows: int | None) -> Vocabulary:
    """A tokenizer.json as a vocabulary, not judged yet. Special tokens are those that its post-processor adds.

    n_rows: of the embedding; ids without a token, up to there, become unused ones. Raises MalformedError for what
    breaks the format, UnsupportedError for models other than BPE and for text handling that we cannot reproduce.
    """
    root = Fields(path, document, "/")
    model = root.section("model")
    if model is None:
        raise root.error("model", "nothing", "an object")
    for key, allowed in (
        ("type", "BPE"), ("dropout", None), ("continuing_subword_prefix", None), ("end_of_word_suffix", None),
    ):  # fmt: skip
        value = model.values.get(key, "BPE" if key == "type" else None)
        if value != allowed and value != "":
            raise UnsupportedError(path, f"/model/{key}", found=value, allowed=str(allowed))
    known, kinds = _read_tokens(root, model)
    tokens = _fill(path, known, n_rows)
    merges = _read_merges(model)
    by_id = tuple(kinds.get(token_id, TokenKind.UNUSED) for token_id in range(len(tokens)))
    if _is_sentencepiece(document, model):
        vocabulary = _read_spm(path, document, model, tokens, by_id, merges)
    else:
        cut = pre_tokenizers.recognize(
            path, document.get("pre_tokenizer"), document.get("normalizer"),
            ignore_merges=model.boolean("ignore_merges", default=False),
        )  # fmt: skip
        vocabulary = Vocabulary(model="bpe", pre_tokenizer=cut.name, tokens=tokens, kinds=by_id, merges=merges)
    return _with_post_processor(path, document.get("post_processor"), vocabulary)


def _read_tokens(root: Fields, model: Fields) -> tuple[dict[int, str], dict[int, TokenKind]]:
    vocab = model.section("vocab")
    if vocab is None:
        raise model.error("vocab", "nothing", "an object")
    known: dict[int, str] = {}
    for token, token_id in vocab.values.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 1 << 31:
            raise vocab.error(token, token_id, "an id from 0 to 2147483647")
        if known.setdefault(token_id, token) != token:
            raise vocab.error(token, token_id, f"an id of its own; {known[token_id]!r} has this one")
    kinds = dict.fromkeys(known, TokenKind.NORMAL)
    added = root.values.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MOST_ADDED_TOKENS:
        found = f"{len(added)} tokens" if isinstance(added, list) else added
        raise root.error("added_tokens", found, f"a list of at most {MOST_ADDED_TOKENS} tokens")
    ids = {token: token_id for token_id, token in known.items()}
    for n, entry in enumerate(added):
        if not isinstance(entry, Mapping):
            raise root.error(f"added_tokens/{n}", entry, "an object")
        fields = Fields(root.path, entry, f"/added_tokens/{n}/")
        token_id, content = fields.integer("id", minimum=0), fields.string("content")
        if known.get(token_id, content) != content:
            raise fields.error("content", content, f"{known[token_id]!r}, which has this id in /model/vocab")
        if ids.get(content, token_id) != token_id:
            raise fields.error("id", token_id, f"{ids[content]}, the id of this text in /model/vocab")
        for flag in ("single_word", "lstrip", "rstrip"):
            if fields.boolean(flag, default=False):
                raise UnsupportedError(root.path, f"/added_tokens/{n}/{flag}", found=True, allowed="false")
        known[token_id], ids[content] = content, token_id
        special = fields.boolean("special", default=False)
        kinds[token_id] = TokenKind.CONTROL if special else TokenKind.USER_DEFINED
    return known, kinds


def _fill(path: Path, known: dict[int, str], n_rows: int | None) -> tuple[str, ...]:
    """Tokens by id, gaps filled with unused ones as llama.cpp names them. The number is bounded by what is known."""
    last = max(known, default=-1)
    size = n_rows if n_rows is not None else last + 1
    if last >= size:
        raise MalformedError(
            path, "/model/vocab", found=f"token id {last}", allowed=f"ids below {size}, the model's rows"
        )
    if size > 4 * len(known) + 65536:
        raise MalformedError(
            path, "/model/vocab", found=f"{len(known)} tokens for {size} ids", allowed="a quarter of the ids or more"
        )
    return tuple(known.get(token_id, padding(token_id)) for token_id in range(size))


def padding(token_id: int) -> str:
    """The name of a row of the embedding that no token uses, as llama.cpp's converter gives it."""
    return f"[PAD{token_id}]"


def _read_merges(model: Fields) -> tuple[str, ...]:
    """Merges as "left right": old files write them so, newer ones as pairs."""
    values = model.values.get("merges") or []
    if not isinstance(values, list):
        raise model.error("merges", values, "a list")
    merges: list[str] = []
    for n, value in enumerate(values):
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            value = f"{value[0]} {value[1]}"
        if not isinstance(value, str) or value.count(" ") != 1:
            raise model.error(f"merges/{n}", value, "two tokens without spaces")
        merges.append(value)
    return tuple(merges)


def _is_sentencepiece(document: Mapping[str, object], model: Fields) -> bool:
    """Whether the BPE model is one over characters, with "▁" for spaces, rather than over bytes."""
    return model.boolean("byte_fallback", default=False) or "▁" in json.dumps(
        [document.get("normalizer"), document.get("pre_tokenizer")], ensure_ascii=False
    )


def _read_spm(
    path: Path, document: Mapping[str, object], model: Fields, tokens: tuple[str, ...], kinds: tuple[TokenKind, ...],
    merges: tuple[str, ...],
) -> Vocabulary:  # fmt: skip
    add_space_prefix, scheme = _recognize_prefix(path, document)
    has_bytes = model.boolean("byte_fallback", default=False)
    unknown = model.string("unk_token", default="")
    kinds = tuple(
        TokenKind.UNKNOWN if unknown and token == unknown
        else TokenKind.BYTE if has_bytes and kind is TokenKind.NORMAL and byte_of(token) is not None
        else kind
        for token, kind in zip(tokens, kinds, strict=True)
    )  # fmt: skip
    return Vocabulary(
        model="spm",
        pre_tokenizer="default",
        tokens=tokens,
        kinds=kinds,
        scores=scores_from_merges(tokens, kinds, merges),
        unk_id=tokens.index(unknown) if unknown in tokens else None,
        add_space_prefix=add_space_prefix,
        prefix_scheme=scheme,
    )


def _recognize_prefix(path: Path, document: Mapping[str, object]) -> tuple[bool, str]:
    """Whether and how text gets its first space, by the structure of normalizer and pre-tokenizer."""
    normalizer, cut = document.get("normalizer"), document.get("pre_tokenizer")
    steps = [normalizer] if normalizer is not None else []
    if isinstance(normalizer, Mapping) and normalizer.get("type") == "Sequence":
        inner = normalizer.get("normalizers")
        steps = inner if isinstance(inner, list) else steps
    if cut is None and steps == [_PREFIX, _SPACES]:
        return True, "always"
    # Gemma cuts at spaces, of which its normalizer has left none.
    whole = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if steps == [_SPACES] and cut in (None, whole):
        return False, "always"
    if isinstance(cut, Mapping) and cut.get("type") == "Metaspace" and not steps:
        if cut.get("replacement") == "▁" and cut.get("split") is False:
            scheme = cut.get("prepend_scheme")
            if scheme in ("first", "never"):
                return scheme == "first", "first" if scheme == "first" else "always"
        raise UnsupportedError(path, "/pre_tokenizer", found=cut, allowed="Metaspace with ▁, first or never, not split")
    if cut is not None:
        raise UnsupportedError(path, "/pre_tokenizer", found=cut, allowed="null or Metaspace")
    raise UnsupportedError(path, "/normalizer", found=normalizer, allowed="Prepend ▁ and Replace of spaces by ▁")


def _with_post_processor(path: Path, processor: object, vocabulary: Vocabulary) -> Vocabulary:
    """What is put around the text: a token before it, one behind it, or nothing."""
    steps = [processor]
    if isinstance(processor, Mapping) and processor.get("type") == "Sequence":
        inner = processor.get("processors")
        steps = inner if isinstance(inner, list) else steps
    for step in steps:
        kind = step.get("type") if isinstance(step, Mapping) else step
        if kind == "TemplateProcessing" and isinstance(step, Mapping):
            bos_id, eos_id = _read_template(path, step.get("single"), vocabulary.tokens)
            vocabulary = replace(
                vocabulary, bos_id=bos_id, eos_id=eos_id, add_bos=bos_id is not None, add_eos=eos_id is not None
            )
        elif kind not in (None, "ByteLevel"):
            raise UnsupportedError(path, "/post_processor", found=kind, allowed="ByteLevel or TemplateProcessing")
    return vocabulary


def _read_template(path: Path, single: object, tokens: tuple[str, ...]) -> tuple[int | None, int | None]:
    """The ids before and behind the text, of a list such as [{SpecialToken: {id: "<s>"}}, {Sequence: {id: "A"}}]."""
    field, around, texts = "/post_processor/single", [list[int](), list[int]()], 0
    items = single if isinstance(single, list) else [single]
    if len(items) > 3:
        raise UnsupportedError(path, field, found=f"{len(items)} items", allowed="at most one token on each side")
    for item in items:
        special = item.get("SpecialToken") if isinstance(item, Mapping) else None
        sequence = item.get("Sequence") if isinstance(item, Mapping) else None
        if isinstance(special, Mapping) and special.get("id") in tokens and texts < 2:
            around[texts].append(tokens.index(str(special["id"])))
        elif isinstance(sequence, Mapping) and sequence.get("id") == "A":
            texts += 1
        else:
            raise UnsupportedError(path, field, found=item, allowed="special tokens and the text")
    if texts != 1 or len(around[0]) > 1 or len(around[1]) > 1:
        raise UnsupportedError(path, field, found=single, allowed="at most one token on each side")
    return next(iter(around[0]), None), next(iter(around[1]), None)
