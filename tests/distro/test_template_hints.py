from __future__ import annotations

import time

import pytest

from distro.template_hints import hints
from tests.fakes import tiny_llama


def test_plain_templates_are_not_suspected() -> None:
    assert hints(tiny_llama.CHAT_TEMPLATE) == ()
    assert hints("{% for m in messages[1:] %}{{ m.content | trim }}{{ raise_exception('no') }}{% endfor %}") == ()


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("{{ x.__class__ }}", "reaches for Python's internals (line 1)"),
        ("\n\n{{ x['__init__'] }}", "reaches for Python's internals (line 3)"),
        ("{{ x|attr('_secret') }}", "reaches for Python's internals (line 1)"),
        ("{%- include 'other' %}", "asks for another template (line 1)"),
        ("{% from 'a' import b %}", "asks for another template (line 1)"),
        ("{% do messages %}", "uses `do`, which is switched off (line 1)"),
        ("{% set _ = messages.append(1) %}", "changes lists or objects (line 1)"),
        ("{{ 'a' * 1000000000 }}", "makes something very long (line 1)"),
        ("{{ range(10000000) }}", "makes something very long (line 1)"),
    ],
)
def test_what_the_sandbox_refuses_is_hinted_at(template: str, hint: str) -> None:
    assert hints(template) == (hint,)


@pytest.mark.parametrize("text", ["{%", ".", "[ ", "* ", "range(", "'"])
def test_the_longest_template_costs_little(text: str) -> None:
    template = text * (2**20 // len(text))
    began = time.process_time()
    hints(template)
    assert time.process_time() - began < 1
