"""A vocabulary in the files of a Hugging Face folder, both ways.

    tokenizer.json           tokens, merges, how text is cut (`converters.tokenizers.tokenizer_json`)
    tokenizer.model          the same for SentencePiece, with scores (`converters.tokenizers.model_file`)
    tokenizer_config.json    which tokens are special and how; the chat template
    special_tokens_map.json  the same, in older folders alone
    generation_config.json   which tokens end an answer
    chat_template.jinja      the chat template, in newer folders

Templates are carried, never rendered. `auto_map` and other names of code are not followed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from converters import json_file
from converters.errors import MalformedError, UnsupportedError
from converters.fields import Fields
from converters.folder import inside
from converters.input_file import InputFile
from converters.tokenizers import model_file, sentencepiece_model, tokenizer_json
from converters.tokenizers.vocabulary import (
    LONGEST_TEMPLATE,
    TokenKind,
    Vocabulary,
    fill_in_ids,
    judge_template,
    judged,
    stop_ids,
)

LARGEST_TOKENIZER = 128 << 20  # bytes; the largest known have 35 MB
LARGEST_CONFIG = 16 << 20
_ROLES = {"bos_id": "bos_token", "eos_id": "eos_token", "unk_id": "unk_token", "pad_id": "pad_token"}
_NAMES = {
    "tokens": "/model/vocab", "kinds": "/added_tokens", "merges": "/model/merges", "scores": "tokenizer.model: scores",
    "stop_ids": "generation_config.json: /eos_token_id", "chat_template": "chat_template",
    "add_bos": "/add_bos_token", "add_eos": "/add_eos_token", **{ours: f"/{name}" for ours, name in _ROLES.items()},
}  # fmt: skip


def read_vocabulary(folder: Path, vocab_size: int | None) -> Vocabulary | None:
    """The vocabulary of a folder; None where it has no tokenizer files.

    vocab_size: rows of the embedding; ids without a token, up to there, become unused ones.
    Raises MalformedError for broken files, UnsupportedError for tokenizers that we do not know.
    """
    source, vocabulary = _read_tokens(folder, vocab_size)
    return None if vocabulary is None else settled(source, vocabulary, read_settings(folder))


@dataclass(frozen=True)
class Settings:
    """What the small files of a folder say of its tokens; nothing, where they are not there."""

    config: Fields
    older: Fields
    generation: Fields
    chat_template: str | None


def read_settings(folder: Path | None) -> Settings:
    """The settings in a folder's small files. Raises MalformedError, UnsafeError for a link that leaves the folder."""
    if folder is None:
        nothing = Fields(Path(), {}, "/")
        return Settings(nothing, nothing, nothing, None)
    config = _optional(folder, "tokenizer_config.json")
    return Settings(
        config,
        _optional(folder, "special_tokens_map.json"),
        _optional(folder, "generation_config.json"),
        _chat_template(folder, config),
    )


def settled(source: Path, vocabulary: Vocabulary, settings: Settings) -> Vocabulary:
    """Tokens with the parts that they play: as the settings say, else as the tokens' own file does."""
    config, generation = settings.config, settings.generation
    eos_id, own_ends = vocabulary.eos_id, vocabulary.stop_ids
    vocabulary = _with_roles(vocabulary, config, settings.older)
    for flag, key, token_id in (
        ("add_bos", "add_bos_token", vocabulary.bos_id), ("add_eos", "add_eos_token", vocabulary.eos_id),
    ):  # fmt: skip
        if key in config:
            vocabulary = replace(vocabulary, **{flag: config.boolean(key) and token_id is not None})  # type: ignore[arg-type]
    ends: list[int | None] = _generation_ends(generation, len(vocabulary))
    if not ends and vocabulary.eos_id == eos_id:
        ends = [*own_ends]
    ends.append(vocabulary.eos_id)
    prefix, suffix, middle = fill_in_ids(vocabulary.tokens)
    vocabulary = replace(
        vocabulary,
        chat_template=settings.chat_template,
        stop_ids=stop_ids(ends, vocabulary.tokens, vocabulary.kinds, settings.chat_template),
        fim_prefix_id=prefix,
        fim_suffix_id=suffix,
        fim_middle_id=middle,
    )
    return judged(source, vocabulary, _NAMES)


def _read_tokens(folder: Path, vocab_size: int | None) -> tuple[Path, Vocabulary | None]:
    """Tokens, merges and scores, and the file that they come from."""
    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.exists():
        vocabulary = tokenizer_json.read(fast, json_file.read(fast, max_bytes=LARGEST_TOKENIZER), vocab_size)
        if vocabulary.model == "spm" and slow.exists() and model_file.is_sentencepiece(slow):
            vocabulary = _with_scores(slow, vocabulary, sentencepiece_model.read(slow))
        return fast, vocabulary
    if slow.exists():
        return slow, grown(slow, model_file.read(slow, vocab_size), vocab_size, _added_tokens(folder))
    if (folder / "vocab.json").exists():
        raise UnsupportedError(
            folder / "vocab.json", "file", found="a tokenizer in old files", allowed="tokenizer.json"
        )
    return fast, None


def _with_scores(path: Path, vocabulary: Vocabulary, model: Vocabulary) -> Vocabulary:
    """tokenizer.json's tokens with the scores and kinds of tokenizer.model; both must say the same of normal tokens."""
    tokens, kinds, scores = list(vocabulary.tokens), list(vocabulary.kinds), [-1000.0] * len(vocabulary)
    for token_id in range(min(len(vocabulary), len(model))):
        same = tokens[token_id] == model.tokens[token_id]
        if kinds[token_id] is TokenKind.UNUSED or (same and kinds[token_id] is TokenKind.NORMAL):
            tokens[token_id], kinds[token_id] = model.tokens[token_id], model.kinds[token_id]
        elif not same and kinds[token_id] in (TokenKind.NORMAL, TokenKind.BYTE):
            field, allowed = f"pieces[{token_id}]", f"{tokens[token_id]!r}, as in tokenizer.json"
            raise MalformedError(path, field, found=model.tokens[token_id], allowed=allowed)
        scores[token_id] = (model.scores or ())[token_id]
    return replace(vocabulary, tokens=tuple(tokens), kinds=tuple(kinds), scores=tuple(scores))


def grown(
    path: Path, model: Vocabulary, vocab_size: int | None, added: Mapping[int, tuple[str, TokenKind]]
) -> Vocabulary:
    """The tokens of a file with those that its folder adds, by id, and unused ones up to vocab_size."""
    folder = path.parent
    size = vocab_size if vocab_size is not None else max([len(model), *(token_id + 1 for token_id in added)])
    if size < len(model) or size > 4 * len(model) + 65536:
        raise MalformedError(path, "tokens", found=len(model), allowed=f"some for the embedding's {size} rows")
    tokens, kinds = list(model.tokens), list(model.kinds)
    for token_id in range(len(model), size):
        tokens.append(tokenizer_json.padding(token_id))
        kinds.append(TokenKind.UNUSED)
    scores = model.scores and (*model.scores, *[-1000.0] * (size - len(model)))
    for token_id, (content, kind) in added.items():
        if token_id >= size:
            field = f"/added_tokens_decoder/{token_id}"
            raise MalformedError(folder / "tokenizer_config.json", field, found=content, allowed=f"ids below {size}")
        if kinds[token_id] is not TokenKind.UNKNOWN:
            tokens[token_id], kinds[token_id] = content, kind
    legacy = _optional(folder, "tokenizer_config.json").boolean("legacy", default=True)
    scheme = "always" if legacy or model.model == "bpe" else "first"
    return replace(model, tokens=tuple(tokens), kinds=tuple(kinds), scores=scores, prefix_scheme=scheme)


def _added_tokens(folder: Path) -> dict[int, tuple[str, TokenKind]]:
    """The tokens of added_tokens.json and of tokenizer_config.json's `added_tokens_decoder`, by id."""
    found: dict[int, tuple[str, TokenKind]] = {}
    older = _optional(folder, "added_tokens.json")
    for content in older.values:
        found[older.integer(content, minimum=0)] = (content, TokenKind.USER_DEFINED)
    decoder = _optional(folder, "tokenizer_config.json").section("added_tokens_decoder")
    for key in decoder.values if decoder is not None else ():
        entry = decoder.section(key) if decoder is not None else None
        if entry is None or not key.isascii() or not key.isdecimal() or len(key) > 9:
            raise MalformedError(
                folder / "tokenizer_config.json", "/added_tokens_decoder", found=key, allowed="ids with an object each"
            )
        special = entry.boolean("special", default=False)
        found[int(key)] = (entry.string("content"), TokenKind.CONTROL if special else TokenKind.USER_DEFINED)
    return found


def _with_roles(vocabulary: Vocabulary, config: Fields, older: Fields) -> Vocabulary:
    """Begin, end, unknown and padding: by tokenizer_config.json, else special_tokens_map.json, else as they were."""
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    for ours, key in _ROLES.items():
        fields = config if config.values.get(key) not in (None, "") else older
        if fields.values.get(key) in (None, ""):  # the first conversions of LLaMA name nothing in just this way
            continue
        value = fields.values[key]
        content = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(content, str):
            raise fields.error(key, value, "a token's text")
        if content in ids:
            vocabulary = replace(vocabulary, **{ours: ids[content]})  # type: ignore[arg-type]
        elif ours in ("bos_id", "eos_id"):
            raise fields.error(key, content, "one of the vocabulary's tokens")
    return vocabulary


def _generation_ends(generation: Fields, n_tokens: int) -> list[int | None]:
    """`eos_token_id` of generation_config.json, which is a number or a list of them."""
    value = generation.values.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    ends: list[int | None] = []
    for token_id in values:
        if token_id is None:
            continue
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise generation.error("eos_token_id", value, "a token's id or a list of them")
        if token_id >= n_tokens:
            raise generation.error("eos_token_id", token_id, f"tokens from 0 to {n_tokens - 1}")
        ends.append(token_id)
    return ends


def _chat_template(folder: Path, config: Fields) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's: text, or a list of named ones, of which "default" counts."""
    path = inside(folder, "chat_template.jinja")
    template: str | None
    if path.exists():
        template, source, field = _read_text(path), path, "file"
    else:
        template, source, field = _template_of(config), config.path, f"{config.prefix}chat_template"
    if template is not None:
        judge_template(source, template, field)
    return template


def _read_text(path: Path) -> str:
    with InputFile(path) as file:
        if file.size > 4 * LONGEST_TEMPLATE:
            raise MalformedError(path, "file", found=f"{file.size} bytes", allowed=f"at most {4 * LONGEST_TEMPLATE}")
        data = file.read(0, file.size, "file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MalformedError(path, "file", offset=f"line {line}", found=error.reason, allowed="UTF-8") from None


def _template_of(config: Fields) -> str | None:
    value = config.values.get("chat_template")
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, Mapping)]
        default = [entry.get("template") for entry in entries if entry.get("name") == "default"]
        if len(default) != 1:
            names = [entry.get("name") for entry in entries]
            raise config.error("chat_template", names, 'one template called "default" among those named')
        value = default[0]
    if value is not None and not isinstance(value, str):
        raise config.error("chat_template", value, "text, or a list of named templates")
    return value


def _optional(folder: Path, name: str) -> Fields:
    """A JSON object's fields; none where the file is not there."""
    path = inside(folder, name)
    return Fields(path, json_file.read(path, max_bytes=LARGEST_CONFIG) if path.exists() else {}, "/")


def vocabulary_files(vocabulary: Vocabulary, *, context_length: int | None = None) -> dict[str, bytes]:
    """The tokenizer's files, by name; the same bytes for the same vocabulary.

    `tokenizer_class` names the class that takes tokenizer.json as it is: LlamaTokenizer makes its own rules instead.
    context_length: in tokens. Raises UnsupportedError for a cut of text that tokenizer.json cannot describe yet.
    """
    special: dict[str, object] = {
        key: vocabulary.tokens[token_id]
        for ours, key in sorted(_ROLES.items(), key=lambda role: role[1])
        if (token_id := getattr(vocabulary, ours)) is not None
    }
    config: dict[str, object] = {
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "add_prefix_space": vocabulary.add_space_prefix,
        "added_tokens_decoder": tokenizer_json.added_tokens(vocabulary),
        **special,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if vocabulary.model == "spm":
        config["legacy"] = vocabulary.prefix_scheme == "always"
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    if context_length is not None:
        config["model_max_length"] = context_length
    files = {
        "tokenizer.json": tokenizer_json.write(vocabulary),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(special),
        "generation_config.json": _json(_generation(vocabulary)),
    }
    model = sentencepiece_model.write(vocabulary) if vocabulary.model == "spm" else None
    if model is not None:
        files["tokenizer.model"] = model
    return files


def _generation(vocabulary: Vocabulary) -> dict[str, object]:
    ends = list(vocabulary.stop_ids)
    values = {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": ends if len(ends) > 1 else vocabulary.eos_id if not ends else ends[0],
        "pad_token_id": vocabulary.pad_id,
    }
    return {key: value for key, value in values.items() if value is not None}


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
