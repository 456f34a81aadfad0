"""JSON out of a file that is not trusted: one object, every rule of RFC 8259 kept, and a few that it leaves open.

UTF-8 without a byte order mark. A key stands once in its object (two readers would otherwise see two files). Numbers
are finite and short, text is Unicode without half surrogate pairs, nesting is shallow, values are not very many. What
breaks a rule is named with line and column, counted from 1.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from converters.errors import MalformedError
from converters.input_file import InputFile

_DEEPEST = 64
# tokenizer_config.json writes "no limit" as 10**30; beyond a few thousand digits Python refuses to convert at all.
_LONGEST_INTEGER = 100
# Twice what the largest tokenizer.json has. Each value of JSON takes at least a comma or a bracket, and up to 70 bytes.
_MOST_VALUES = 1 << 22

# Possessive, so that a text of millions of letters is one step and not millions of places to come back to.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[][{}:,]|[^][{}:,"\s]+')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _BrokenRule(Exception):
    """Raised by the decoder's hooks, which know that something is wrong and not where."""


def read(path: Path | str, *, max_bytes: int) -> dict[str, object]:
    """The object in a JSON file.

    Raises MissingError where there is no file, MalformedError for one that is longer than max_bytes or breaks a rule.
    """
    with InputFile(path) as file:
        if file.size > max_bytes:
            raise MalformedError(path, "file", found=f"{file.size} bytes", allowed=f"at most {max_bytes}")
        return parse(path, file.read(0, file.size, "file"))


def parse(path: Path | str, data: bytes, *, field: str = "JSON") -> dict[str, object]:
    """The object in these bytes. field: what they are, for messages. Raises MalformedError."""
    n_values = sum(map(data.count, (b",", b"[", b"{")))
    if n_values > _MOST_VALUES:
        raise MalformedError(path, field, found=f"{n_values} commas and brackets", allowed=f"at most {_MOST_VALUES}")
    text = _decode(path, data, field)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
        _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + 20] or "the end"
        raise MalformedError(
            path, field, offset=_line_and_column(text, error.pos), found=found, allowed=f"JSON ({error.msg})"
        ) from None
    except (_BrokenRule, RecursionError, UnicodeEncodeError):
        position, found, allowed = _first_broken_rule(text)
        raise MalformedError(
            path, field, offset=_line_and_column(text, position), found=found, allowed=allowed
        ) from None
    if not isinstance(value, dict):
        raise MalformedError(path, field, offset="1:1", found=_kind(value), allowed="an object")
    return value


def _decode(path: Path | str, data: bytes, field: str) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise MalformedError(path, field, offset="1:1", found="a byte order mark", allowed="UTF-8 without one")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        where = _line_and_column(before, len(before))
        raise MalformedError(path, field, offset=where, found=data[error.start : error.end], allowed="UTF-8") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _BrokenRule
    return value


def _integer(digits: str) -> int | float:
    if len(digits) > _LONGEST_INTEGER:
        raise _BrokenRule
    return -0.0 if digits == "-0" else int(digits)  # no integer has a negative zero


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _BrokenRule
    return value


def _constant(name: str) -> object:
    raise _BrokenRule


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _BrokenRule


def _first_broken_rule(text: str) -> tuple[int, str, str]:
    """Position, what is there and what may be; for a text that the decoder read, at least up to there."""
    keys: list[set[str] | None] = []  # of the objects that are open; None stands for an array
    string: re.Match[str] | None = None  # the last one seen: before a colon, a key
    for token in _TOKEN.finditer(text):
        word, position = token.group(), token.start()
        if word in "{[":
            keys.append(set() if word == "{" else None)
            if len(keys) > _DEEPEST:
                return position, f"{word} inside {_DEEPEST} others", f"nesting up to {_DEEPEST}"
        elif word in "]}":
            keys.pop()
        elif word == ":" and keys[-1] is not None and string is not None:
            key = json.loads(string.group())
            if key in keys[-1]:
                return string.start(), f"the key {key!r} again", "each key once"
            keys[-1].add(key)
        elif word.startswith('"'):
            string = token
            if not _is_unicode(json.loads(word)):
                return position, word, "pairs of surrogates"
        elif word.lstrip("-") in ("NaN", "Infinity"):
            return position, word, "a finite number"
        elif word.lstrip("-").isdigit() and len(word) > _LONGEST_INTEGER:
            return position, f"an integer of {len(word)} digits", f"up to {_LONGEST_INTEGER} digits"
        elif word[-1].isdigit() and not math.isfinite(float(word)):
            return position, word, "a finite number"
    raise AssertionError("the decoder found a broken rule and the search did not")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _line_and_column(text: str, position: int) -> str:
    return f"{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "an array"
    return "null" if value is None else type(value).__name__
