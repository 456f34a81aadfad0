"""Messages into the text that a model was trained on, by the template that came with its weights.

A template is a program by a stranger: it is rendered in a child process with little time and memory
(`distro/runtime/chat_sandbox.py`), and only when somebody chats. The text that comes back is data as well: whoever
prints it escapes it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.errors import MalformedError, RefusedError, UnsafeError, shown
from converters.tokenizers.vocabulary import Vocabulary, judge_template

FIELD = "tokenizer.chat_template"
CPU_S = 1.8  # with the start of the child, an endless template costs 2 s
MEMORY_BYTES = 256 << 20  # beyond what Python and jinja2 need themselves
OUTPUT_CHARACTERS = 1 << 20
_WALL_S = 20.0  # for a machine that is busy with other things; CPU_S is what stops a template
_ALLOWED = "a chat template that jinja2's sandbox renders within its limits"


def render(
    vocabulary: Vocabulary,
    messages: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, object]] | None = None,
    today: datetime.date | None = None,
    path: Path | str = "model",
) -> str:
    """The messages as the vocabulary's template writes them, to be encoded with parse_special and without add_special.

    messages: each with "role" and "content", as in transformers' `apply_chat_template`. add_generation_prompt: end with
    the head of the assistant's turn. today: what `strftime_now` tells a template, which without it does not exist.
    path: the model, for messages.
    Raises RefusedError if there is no template or if it refuses the messages, UnsafeError if it reaches for Python's
    internals, MalformedError if it is broken or exceeds its limits.
    """
    if vocabulary.chat_template is None:
        raise RefusedError(f"{path}: has no chat template; it continues text, it does not answer messages")
    judge_template(path, vocabulary.chat_template, FIELD)
    special = {
        name: vocabulary.tokens[token_id]
        for name, token_id in (
            ("bos_token", vocabulary.bos_id), ("eos_token", vocabulary.eos_id),
            ("unk_token", vocabulary.unk_id), ("pad_token", vocabulary.pad_id),
        )
        if token_id is not None
    }  # fmt: skip
    variables = {
        **special, "messages": messages, "tools": tools, "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }  # fmt: skip
    answer = _ask(vocabulary.chat_template, variables, today, path)
    if "text" in answer:
        return str(answer["text"])
    if answer["error"] == "refused":
        raise RefusedError(f"{path}: its chat template refuses these messages: {shown(answer['why'])}")
    kind = UnsafeError if answer["error"] == "unsafe" else MalformedError
    line = answer.get("line")
    offset = None if line is None else f"line {line}"
    raise kind(path, FIELD, offset=offset, found=answer["why"], allowed=_ALLOWED)


def _ask(
    template: str, variables: Mapping[str, object], today: datetime.date | None, path: Path | str
) -> dict[str, object]:
    """One request to one child; a child that dies has exceeded a limit."""
    request = {
        "path": [entry for entry in sys.path if Path(entry).is_absolute()],
        "template": template,
        "variables": variables,
        "date": None if today is None else today.isoformat(),
        "limits": {"cpu_s": CPU_S, "memory_bytes": MEMORY_BYTES, "output_characters": OUTPUT_CHARACTERS},
    }
    program = Path(__file__).with_name("chat_sandbox.py")
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=json.dumps(request).encode(), capture_output=True, timeout=_WALL_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MalformedError(path, FIELD, found=f"more than {_WALL_S:g} s", allowed=_ALLOWED) from None
    if child.returncode < 0 or b"MemoryError" in child.stderr[-100:]:
        found = f"more than {CPU_S:g} s of computing, or more memory than a template may use"
        raise MalformedError(path, FIELD, found=found, allowed=_ALLOWED)
    if child.returncode > 0:
        why = child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the child that renders chat templates ended with {child.returncode}: {why}")
    answer: dict[str, object] = json.loads(child.stdout)
    return answer
