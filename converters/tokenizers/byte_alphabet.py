"""GPT-2's way to write bytes as visible letters, so that a byte-level token is text: a space is "Ġ", a newline "Ċ".

Bytes that are printable in Latin-1 stand for themselves; the other 68 take the letters from U+0100 on, in order
(`bytes_to_unicode` in openai/gpt-2, src/encoder.py).
"""

from __future__ import annotations

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

LETTERS: tuple[str, ...] = tuple(
    chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)
)
_BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def to_letters(data: bytes) -> str:
    """Bytes as a byte-level token writes them."""
    return "".join(LETTERS[byte] for byte in data)


def to_bytes(token: str) -> bytes | None:
    """The bytes that a byte-level token stands for; None if it has other letters."""
    values = [_BYTES.get(letter) for letter in token]
    return None if None in values else bytes(value for value in values if value is not None)
