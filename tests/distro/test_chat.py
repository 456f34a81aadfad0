import datetime
import errno
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from converters.errors import MalformedError, RefusedError, UnsafeError
from converters.tokenizers import tokenizer_json
from distro.errors import exit_code
from distro.runtime import chat
from distro.runtime.chat import render
from tests.fakes.vocabularies import small_bpe, vocabulary_of

CHAT = [
    {"role": "system", "content": "You are a harbour master."},
    {"role": "user", "content": "When is high water, in <b>Brest</b>?  Дважды 海 🙂"},
    {"role": "assistant", "content": "  At noon.\n"},
    {"role": "user", "content": "And low water?"},
]


def with_template(template):
    return replace(small_bpe(), chat_template=template)


# Written for this test in the manner of the families' own.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "inst": (
        "{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}"
        "{%- set messages = messages[1:] -%}{%- endif -%}{{ bos_token }}\n"
        "{% for message in messages %}\n"
        "    {% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\n"
        "        {{ raise_exception('roles must alternate') }}\n"
        "    {% endif %}\n"
        "    {% if message.role == 'user' %}\n"
        "[INST] {% if loop.last and system is defined %}{{ system }}\n\n{% endif %}{{ message.content }} [/INST]\n"
        "    {% else %}\n"
        " {{ message.content | trim }}{{ eos_token }}\n"
        "    {% endif %}\n"
        "{% endfor %}"
    ),
    "headers and tools": (
        "{%- macro head(role) -%}<|start|>{{ role }}<|stop|>\n\n{% endmacro -%}\n"
        "{%- set state = namespace(found=false) -%}\n"
        "{%- if tools %}{{ head('tools') }}"
        "{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}{% endif -%}\n"
        "{%- for message in messages %}\n"
        "  {%- if message.role == 'system' %}{% set state.found = true %}{% continue %}{% endif %}\n"
        "  {{- head(message.role) ~ message.content | upper | replace('A', 'a') }}\n"
        "  {%- if loop.index > 2 %}{% break %}{% endif %}\n"
        "{%- endfor %}\n"
        "{%- generation %}{{ state.found }}{{ pad_token }}{{ sep_token is defined }}{% endgeneration %}\n"
        "{{ {'text': messages[1].content, 'q': \"it's\"} | tojson }}{# a note #}\n"
        "{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}\n"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_text_is_that_of_transformers(name, prompt, tmp_path):
    vocabulary = with_template(TEMPLATES[name])
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json.write(vocabulary))
    special = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|end|>",
    }
    judge = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **special)
    tools = [{"name": "tide", "parameters": {"port": {"type": "string", "ü": [1, None, True]}}}]
    theirs = judge.apply_chat_template(
        CHAT, tools=tools, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
    )
    assert render(vocabulary, CHAT, tools=tools, add_generation_prompt=prompt) == theirs


def test_a_real_template(smollm2_gguf):
    text = render(vocabulary_of(smollm2_gguf), [{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_date_is_what_the_caller_says():
    vocabulary = with_template("{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no date' }}")
    assert render(vocabulary, CHAT) == "no date"
    assert render(vocabulary, CHAT, today=datetime.date(2024, 2, 29)) == "29 Feb 2024"


def test_a_base_model_has_no_template():
    with pytest.raises(RefusedError, match="model: has no chat template"):
        render(small_bpe(), CHAT)


def test_a_template_may_refuse_messages():
    with pytest.raises(RefusedError, match="refuses these messages: roles must alternate") as caught:
        render(with_template(TEMPLATES["inst"]), CHAT[2:])
    assert exit_code(caught.value) == 2


UNSAFE = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__code__ }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ ('{0.__class__}' | attr('format'))(1) }}",
    "{{ '' | attr('__class__') }}",
    "{{ [1] | map(attribute='__class__') | list }}",
    "{{ messages | groupby('role.__class__') }}",
    "{{ messages.append(1) }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__ }}",
]


@pytest.mark.parametrize("template", UNSAFE)
def test_reaching_for_internals_is_unsafe(template):
    with pytest.raises(UnsafeError) as caught:
        render(with_template("\n" + template), CHAT)
    assert (caught.value.field, caught.value.offset) == ("tokenizer.chat_template", "line 2")
    assert exit_code(caught.value) == 81


NEVER_ENDING = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% for d in range(9) %}{% for e in range(9) %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
)
# What is wrong, the template, the line, a part of the message.
BROKEN = [
    ("a range", "a\n{% for i in range(10**9) %}{% endfor %}", "line 2", "Range too big"),
    ("five loops", NEVER_ENDING, None, "more than 1.8 s"),
    ("a power", "{{ 9**(9**9) }}", None, "more than 1.8 s"),
    ("a long text", "{{ 'a' * 10**10 }}", None, "more memory"),
    ("a text of 100 MB", "{{ 'a' * 10**8 }}", None, "more"),
    ("a text of 2 MB", "{{ 'a' * 2**21 }}", None, "characters of output"),
    ("much output", "{% for a in range(99999) %}{{ 'water' * 9 }}{% endfor %}", None, "characters of output"),
    ("a wide field", "{{ 'a' | center(10**9) }}", None, "more memory"),
    ("a macro of itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1", "too deep"),
    ("100,000 blocks", "{% if 1 %}" * 100_000, None, "too deep"),
    ("100,000 brackets", "{{" + "(" * 100_000, None, "too deep"),
    ("a syntax error", "a\nb {% if %}", "line 2", "Expected an expression"),
    ("an end too few", "{% if 1 %}", "line 1", "end of template"),
    ("an unknown tag", "{% debug %}", "line 1", "unknown tag"),
    ("a file", "{% include '/etc/passwd' %}", "line 1", "no loader"),
    ("a function that is not there", "\n\n{{ open('/etc/passwd') }}", "line 3", "'open' is undefined"),
    ("a message that is not there", "\n{{ messages[9].content }}", "line 2", "no element 9"),
    ("NUL", "a\nb\0", "line 2", "NUL"),
    ("a lone surrogate", "\ud800", None, "surrogates"),
    ("50 MB", "a" * 50_000_000, None, "50000000 characters"),
]


@pytest.mark.parametrize(("template", "line", "text"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_template_is_named(template, line, text):
    with pytest.raises(MalformedError, match=r"^tide\.gguf: tokenizer\.chat_template") as caught:
        render(with_template(template), CHAT, path="tide.gguf")
    assert caught.value.field == "tokenizer.chat_template"
    assert caught.value.offset == line
    assert text in str(caught.value)
    assert exit_code(caught.value) == 65
    assert len(str(caught.value)) < 500


def run(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_template_that_eats_memory_gets_what_the_limit_gives():
    program = """
import resource, sys
from dataclasses import replace
from converters.errors import MalformedError
from distro.runtime import chat
from tests.fakes.vocabularies import small_bpe
for template in (sys.argv[1], sys.argv[2]):
    try:
        chat.render(replace(small_bpe(), chat_template=template), [])
    except MalformedError as error:
        assert "more memory" in str(error), error
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
    greedy = "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x * 2 %}{% endfor %}"
    baseline, peak = map(int, run(program, "", greedy))
    assert 64 << 20 < peak - baseline < chat.MEMORY_BYTES


def test_the_child_can_open_nothing_after_the_limits():
    program = """
import os, socket, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import chat_sandbox
chat_sandbox._limit(cpu_s=5, memory_bytes=1 << 28, output_characters=1)
for attempt in (lambda: open("/etc/passwd"), lambda: socket.socket(), lambda: os.pipe()):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
"""
    assert run(program, chat.__file__.replace("chat.py", "chat_sandbox.py")) == [str(errno.EMFILE)] * 3


def test_chat_imports_nothing_heavy():
    program = "import sys, distro.runtime.chat; print(*{'torch', 'tokenizers', 'jinja2', 'numpy'} & set(sys.modules))"
    assert run(program) == []
