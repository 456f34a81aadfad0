"""What in a chat template will not work, by its text alone: nothing is rendered, not even parsed.

What our sandbox refuses (`distro/runtime/chat_sandbox.py`) is looked for everywhere, so a template that merely writes
such words into its text is suspected too: a hint, no verdict.
"""

from __future__ import annotations

import re

_SUSPECTS = (
    (r"(?:\.|\[\s*['\"]|\battr\(\s*['\"])_", "reaches for Python's internals"),
    (r"\{%[-+]?\s*(?:include|import|from|extends)\b", "asks for another template"),
    (r"\{%[-+]?\s*do\b", "uses `do`, which is switched off"),
    (r"\.(?:append|clear|extend|insert|pop|remove|reverse|setdefault|sort|update)\(", "changes lists or objects"),
    (r"\brange\(\s*\d{6}|\*\s*\d{6}|\*\*", "makes something very long"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.ASCII), why) for pattern, why in _SUSPECTS)


def hints(template: str) -> tuple[str, ...]:
    """For each kind of thing that is refused and that the template seems to use: which, and its first line."""
    found = ((pattern.search(template), why) for pattern, why in _COMPILED)
    return tuple(f"{why} (line {template.count(chr(10), 0, match.start()) + 1})" for match, why in found if match)
