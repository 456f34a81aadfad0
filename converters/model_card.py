"""README.md of a model's folder: what the model says of itself, in the front matter that Hugging Face's hub reads.

    ---
    license: "apache-2.0"          the hub's words, one line each
    tags: ["chat"]
    general: {"name": "…", …}      everything, in GGUF's words for it without "general."; ours, so that nothing is lost
    ---
    # name

Front matter is YAML. We write the part of it that is JSON, one key a line. We read that part, plain texts and lists of
plain texts, which is how people write what we look for; lines of any other kind are passed over. The hub's words win
over `general`, because those are the ones that people edit. Which word means what: hub-docs/modelcard.md of Hugging
Face, and `apply_metadata_heuristic` in llama.cpp's gguf-py/gguf/metadata.py, which reads the same front matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeGuard

from converters.checkpoint import Card
from converters.folder import inside
from converters.input_file import InputFile

NAME = "README.md"

_LONGEST_FRONT_MATTER = 1 << 20  # bytes
_MOST_ORIGINS = 256

# GGUF's word for a text: the hub's words for it, the one that we write first.
_TEXTS = {
    "name": ("model_name", "name"), "author": ("model_author", "model_creator", "author"),
    "version": ("model_version", "version"), "organization": ("model_organization", "organization"),
    "finetune": ("model_finetune", "finetune"), "basename": ("model_basename", "basename"),
    "description": ("model_description", "description"), "quantized_by": ("quantized_by",),
    "size_label": ("model_size_label", "size_label"), "license": ("license",), "license.name": ("license_name",),
    "license.link": ("license_link",),
}  # fmt: skip
_LISTS = {"tags": ("tags", "pipeline_tag"), "languages": ("language", "languages")}
_ORIGINS = {"base_model": ("base_model", "base_models"), "dataset": ("datasets", "dataset")}
_ALL = "general"
# What GGUF says under "general." of the file and not of the model: each file has its own, and no README may say it.
OF_THE_FILE = {"architecture", "type", "file_type", "quantization_version", "alignment"}

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]{0,63}):(?:[ \t]+(.*))?")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)")
# Nothing that YAML takes for more than text: quotes, brackets, anchors, tags, folded text, comments, mappings.
_PLAIN = re.compile(r"(?![\s\[\]{}>|*&!%@`'\"#,?:-])(?!.*: )(?!.* #)[^\0]*[^:\s]")
_NOTHING = {"null", "Null", "NULL", "~"}
# What YAML breaks lines at, or does not allow, even in quotes.
_UNWRITABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_HUB = re.compile(r"(?:https?://huggingface\.co/)?([A-Za-z0-9][A-Za-z0-9_.-]*)/([A-Za-z0-9][A-Za-z0-9_.-]*)")


def read(folder: Path) -> Card:
    """What README.md says of the model; nothing where there is none, or where it says nothing that we can read.

    A card is no part of a model, so faults in it are no errors. Raises UnsafeError for a link that leaves the folder.
    """
    if not (folder / NAME).is_file():
        return {}
    with InputFile(inside(folder, NAME)) as file:
        text = file.read(0, min(file.size, _LONGEST_FRONT_MATTER), "file").decode("utf-8", "replace")
    return _card(_front_matter(text.splitlines()))


def write(card: Card) -> bytes | None:
    """README.md with everything that the card says, None where it says nothing. `read` gives the same card again."""
    if not card:
        return None
    lines: dict[str, object] = {}
    for ours, words in (_TEXTS | _LISTS).items():
        value = card.get(ours)
        if value and isinstance(value, str if ours in _TEXTS else tuple):
            lines[words[0]] = value
    for ours, words in _ORIGINS.items():
        if repositories := _repositories(card, ours):
            lines[words[0]] = repositories
    front = [f"{key}: {_json(value)}" for key, value in (lines | {_ALL: dict(card)}).items()]
    title = " ".join(str(card.get("name", "")).split())
    body = [f"# {title}", ""] if title else []
    return "\n".join(["---", *front, "---", "", *body]).encode()


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _front_matter(lines: list[str]) -> dict[str, object]:
    """The values between the first two lines of `---` that we can read: texts, lists of texts, mappings out of JSON."""
    if not lines or lines[0].rstrip() != "---":
        return {}
    found: dict[str, object] = {}
    key = ""  # that the line belongs to
    for line in map(str.rstrip, lines[1:]):
        if line == "---":
            return found
        pair, item = _KEY.fullmatch(line), _ITEM.fullmatch(line)
        if pair is not None:
            key = pair.group(1)
            found[key] = _value(pair.group(2) or "")
        elif item is not None and isinstance(found.get(key), list):
            _append(found, key, _value(item.group(1)))
        elif line and not line.lstrip().startswith("#"):
            found[key] = None  # nested or folded: of this key we know nothing
    return {}  # no end: this is no front matter


def _append(found: dict[str, object], key: str, value: object) -> None:
    items = found[key]
    if isinstance(value, str) and isinstance(items, list):
        items.append(value)
    else:
        found[key] = None


def _value(text: str) -> object:
    """Text, a list of texts or a mapping; an empty list, which may grow, for nothing; None for what is not read."""
    text = text.strip()
    if text == "":
        return []
    if text in _NOTHING:
        return None
    if text[0] in '"[{':
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = _flow_list(text)
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            return None
        return value if isinstance(value, (str, list, dict)) else None
    if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1].replace("''", ""):
        return text[1:-1].replace("''", "'")
    return text if _PLAIN.fullmatch(text) else None


def _flow_list(text: str) -> list[str] | None:
    """[en, de]: a list without quotes."""
    if text[0] != "[" or text[-1] != "]":
        return None
    items = [item.strip() for item in text[1:-1].split(",")]
    return items if all(_PLAIN.fullmatch(item) and item not in _NOTHING for item in items) else None


def _card(front: Mapping[str, object]) -> Card:
    everything = front.get(_ALL)
    card: dict[str, str | int | float | tuple[str, ...]] = {}
    for word, value in everything.items() if isinstance(everything, dict) else ():
        judged = _judged(word, value)
        if judged is not None:
            card[word] = judged
    for ours, words in _TEXTS.items():
        texts = next((texts for word in words if (texts := _texts(front.get(word)))), ())
        if texts:
            card[ours] = ",".join(texts)
    for ours, words in _LISTS.items():
        texts = tuple(text for word in words for text in _texts(front.get(word)))
        if texts:
            card[ours] = texts
    for ours, words in _ORIGINS.items():
        if f"{ours}.count" not in card:
            card |= _origins(ours, next((texts for word in words if (texts := _texts(front.get(word)))), ()))
    return card


def _judged(word: str, value: object) -> str | int | float | tuple[str, ...] | None:
    """A value of a card; None for one that is not the model's own, or of a kind that GGUF has nowhere."""
    if word in OF_THE_FILE or not _KEY.fullmatch(f"{word}:"):
        return None
    if isinstance(value, list) and word not in _TEXTS:
        return _texts(value) if len(_texts(value)) == len(value) else None
    if word in _LISTS or (isinstance(value, str) and not _is_text(value)):
        return None
    return value if isinstance(value, str) or ((_is_count(value) or _is_real(value)) and word not in _TEXTS) else None


def _is_text(value: object) -> TypeGuard[str]:
    """Text that can be written as UTF-8: JSON's escapes can spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 32


def _is_real(value: object) -> TypeGuard[float]:
    """What a float32 holds, as GGUF has it."""
    return type(value) is float and abs(value) < 2.0**128


def _texts(value: object) -> tuple[str, ...]:
    """A text, or the texts of a list."""
    return tuple(text for text in (value if isinstance(value, list) else [value]) if _is_text(text))


def _origins(kind: str, repositories: Iterable[str]) -> dict[str, str | int]:
    """GGUF's keys of the models or datasets that this one was made from, by their names on the hub."""
    known = [found for found in map(_HUB.fullmatch, repositories) if found is not None][:_MOST_ORIGINS]
    keys: dict[str, str | int] = {f"{kind}.count": len(known)}
    for index, found in enumerate(known):
        organization, name = found.groups()
        keys |= {
            f"{kind}.{index}.name": _title(name),
            f"{kind}.{index}.organization": _title(organization),
            f"{kind}.{index}.repo_url": f"https://huggingface.co/{organization}/{name}",
        }
    return keys if len(keys) > 1 else {}


def _repositories(card: Card, kind: str) -> tuple[str, ...]:
    """Their names on the hub again, of those that are there."""
    count = card.get(f"{kind}.count")
    n = min(count, _MOST_ORIGINS) if isinstance(count, int) else 0
    urls = (str(card.get(f"{kind}.{index}.repo_url", "")) for index in range(n))
    return tuple("/".join(found.groups()) for found in map(_HUB.fullmatch, urls) if found is not None)


def _title(name: str) -> str:
    """A repository's name as people would write it: words, with a capital where they are all small letters."""
    words = name.replace("-", " ").split()
    return " ".join(word.title() if word.islower() and not re.match(r"v?\d", word) else word for word in words)
