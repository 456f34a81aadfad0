"""Model cards: PyYAML and llama.cpp's converter read what we write; what people write is read, and no more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf import Metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import model_card
from converters.checkpoint import Card
from converters.errors import UnsafeError

SMOLLM2: Card = {
    "name": "SmolLM2 135M Instruct",
    "organization": "HuggingFaceTB",
    "finetune": "Instruct",
    "basename": "SmolLM2",
    "size_label": "135M",
    "license": "apache-2.0",
    "base_model.count": 1,
    "base_model.0.name": "SmolLM2 135M",
    "base_model.0.organization": "HuggingFaceTB",
    "base_model.0.repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
    "tags": ("safetensors", "onnx", "text-generation"),
    "languages": ("en", "no"),
}


def front_matter(data: bytes) -> Any:
    """What PyYAML, and so Hugging Face's hub, reads between the lines."""
    _, front, _ = data.decode().split("---\n", 2)
    return yaml.safe_load(front)


def read(folder: Path, text: str | bytes) -> Card:
    (folder / "README.md").write_bytes(text.encode() if isinstance(text, str) else text)
    return model_card.read(folder)


def test_what_is_written() -> None:
    card: Card = {"name": "Tiny", "license": "mit", "tags": ("a", "b"), "version": "1.0"}
    assert model_card.write(card) == (
        b'---\nmodel_name: "Tiny"\nmodel_version: "1.0"\nlicense: "mit"\ntags: ["a", "b"]\n'
        b'general: {"name": "Tiny", "license": "mit", "tags": ["a", "b"], "version": "1.0"}\n---\n\n# Tiny\n'
    )
    assert model_card.write({}) is None


def test_a_real_card_comes_back_in_order(tmp_path: Path) -> None:
    data = model_card.write(SMOLLM2)
    assert data is not None
    assert list(read(tmp_path, data).items()) == list(SMOLLM2.items())


def test_the_hub_finds_its_own_words() -> None:
    data = model_card.write(SMOLLM2)
    assert data is not None
    front = front_matter(data)
    assert {key: front[key] for key in ("license", "language", "tags", "base_model", "model_name")} == {
        "license": "apache-2.0",
        "language": ["en", "no"],
        "tags": ["safetensors", "onnx", "text-generation"],
        "base_model": ["HuggingFaceTB/SmolLM2-135M"],
        "model_name": "SmolLM2 135M Instruct",
    }


def test_llama_cpp_reads_the_same_out_of_it(tmp_path: Path) -> None:
    data = model_card.write(SMOLLM2)
    assert data is not None
    (tmp_path / "README.md").write_bytes(data)
    theirs = Metadata.apply_metadata_heuristic(Metadata(), Metadata.load_model_card(tmp_path), None, None)
    assert (theirs.name, theirs.license, theirs.basename) == ("SmolLM2 135M Instruct", "apache-2.0", "SmolLM2")
    assert (theirs.languages, theirs.tags) == (["en", "no"], ["safetensors", "onnx", "text-generation"])
    assert theirs.base_models == [
        {
            "name": "SmolLM2 135M",
            "organization": "HuggingFaceTB",
            "repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
        }
    ]


PUBLISHED = """\
---
# as on the hub
license: apache-2.0
license_link: 'https://huggingface.co/o/r/blob/main/LICENSE'
base_model:
- meta-llama/Llama-2-7b-hf
  # the other one
- mistralai/mistral-7b-v0.1
language: [en, de]
tags:
  - chat
  - "two words"
pipeline_tag: text-generation
library_name: transformers
widget:
- messages:
  - role: user
    content: |
      license: mit
datasets: HuggingFaceH4/ultrachat_200k
model-index:
- name: x
  results: []
---
# Title

license: gpl
"""


def test_what_people_write_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    card = read(tmp_path, PUBLISHED)
    assert card == {
        "license": "apache-2.0",
        "license.link": "https://huggingface.co/o/r/blob/main/LICENSE",
        "tags": ("chat", "two words", "text-generation"),
        "languages": ("en", "de"),
        "base_model.count": 2,
        "base_model.0.name": "Llama 2 7b Hf",
        "base_model.0.organization": "Meta Llama",
        "base_model.0.repo_url": "https://huggingface.co/meta-llama/Llama-2-7b-hf",
        "base_model.1.name": "Mistral 7b v0.1",
        "base_model.1.organization": "Mistralai",
        "base_model.1.repo_url": "https://huggingface.co/mistralai/mistral-7b-v0.1",
        "dataset.count": 1,
        "dataset.0.name": "Ultrachat_200K",
        "dataset.0.organization": "HuggingFaceH4",
        "dataset.0.repo_url": "https://huggingface.co/HuggingFaceH4/ultrachat_200k",
    }
    theirs = Metadata.apply_metadata_heuristic(Metadata(), Metadata.load_model_card(tmp_path), None, None)
    assert theirs.base_models is not None
    assert theirs.datasets is not None
    for kind, origins in (("base_model", theirs.base_models), ("dataset", theirs.datasets)):
        for index, origin in enumerate(origins):
            for word in ("name", "organization", "repo_url"):
                assert card[f"{kind}.{index}.{word}"] == origin[word]


def test_an_edit_in_the_hubs_words_wins(tmp_path: Path) -> None:
    data = model_card.write(SMOLLM2)
    assert data is not None
    card = read(tmp_path, data.replace(b'license: "apache-2.0"', b"license: mit", 1))
    assert list(card.items()) == [(key, "mit" if key == "license" else value) for key, value in SMOLLM2.items()]


WORDS = st.text(max_size=30).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
CARDS = st.fixed_dictionaries(
    {},
    optional={
        **{word: WORDS.filter(bool) for word in ("name", "license", "description", "license.name", "url", "doi")},
        "tags": st.lists(WORDS).map(tuple),
        "languages": st.lists(WORDS, min_size=1).map(tuple),
        "some.list": st.lists(WORDS).map(tuple),
        "base_model.count": st.integers(0, 2**32 - 1),
        "base_model.0.repo_url": WORDS,
        "x": st.integers(0, 2**32 - 1),
    },
)


@settings(max_examples=300, deadline=None)
@given(CARDS)
def test_any_card_comes_back_and_is_yaml(card: dict[str, Any]) -> None:
    data = model_card.write(card)
    if data is None:
        assert card == {}
        return
    front = data.decode().split("\n---\n", 1)[0].removeprefix("---\n")
    assert yaml.safe_load(front)["general"] == {
        key: list(value) if isinstance(value, tuple) else value for key, value in card.items()
    }
    ours = model_card._card(model_card._front_matter(data.decode().splitlines()))
    assert list(ours.items()) == list(card.items())


# A card is no part of a model: what is wrong in it is passed over, and it can make nothing else wrong.

ODD: list[tuple[str, str, Card]] = [
    ("nothing", "", {}),
    ("no front matter", "# Title\nlicense: mit\n", {}),
    ("no end", "---\nlicense: mit\n", {}),
    ("a space before it", " ---\nlicense: mit\n---\n", {}),
    ("Windows' lines", "---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n", {"license": "mit", "tags": ("a",)}),
    ("null", "---\nlicense: null\nname: ~\nauthor:\n---\n", {}),
    ("a number", "---\nversion: 1.10\n---\n", {"version": "1.10"}),
    ("Norwegian", "---\nlanguage: no\n---\n", {"languages": ("no",)}),
    ("a key twice", "---\nlicense: a\nlicense: b\n---\n", {"license": "b"}),
    ("several licences", "---\nlicense: [mit, apache-2.0]\n---\n", {"license": "mit,apache-2.0"}),
    ("an anchor", "---\nlicense: &a mit\nname: *a\n---\n", {}),
    ("a tag", "---\nlicense: !!python/object/apply:os.system ['id']\n---\n", {}),
    ("a mapping", "---\nlicense: {a: b}\n---\n", {}),
    ("a mapping as JSON", '---\nlicense: {"a": "b"}\n---\n', {}),
    ("folded text", "---\nlicense: >\n  mit\n---\n", {}),
    ("text on two lines", "---\nlicense: mit\n  or so\n---\n", {}),
    ("a comment behind it", "---\nlicense: mit # or so\n---\n", {}),
    ("a quote that does not end", '---\nlicense: "mit\n---\n', {}),
    ("a list in a list", '---\ntags: [["a"]]\n---\n', {}),
    ("numbers in a list", "---\ntags: [1, 2]\n---\n", {}),
    ("a list with a mapping", "---\ntags:\n- a\n- b: c\n---\n", {}),
    ("a base that is a path", "---\nbase_model: ../../etc/passwd\n---\n", {}),
    ("a base by another host", "---\nbase_model: https://example.com/a/b\n---\n", {}),
    ("half a character", '---\nlicense: "\\ud800"\ngeneral: {"name": "\\ud800", "x": ["\\udfff"]}\n---\n', {}),
    ("the file's", '---\ngeneral: {"architecture": "x", "alignment": 7, "file_type": 1, "type": "lora"}\n---\n', {}),
    ("keys that are no keys", '---\ngeneral: {"a b": "x", "": "x", "a\\n": "x", "ok": "x"}\n---\n', {"ok": "x"}),
    ("numbers of all kinds", '---\ngeneral: {"a": -1, "b": 4294967296, "c": 1.5, "d": true, "e": null, "f": 7}\n---\n',
     {"c": 1.5, "f": 7}),
    ("another kind of name", '---\ngeneral: {"name": 5, "tags": "x", "license": ["mit"]}\n---\n', {}),
    ("general as text", "---\ngeneral: everything\n---\n", {}),
    ("general broken", '---\ngeneral: {"name": "x"\nlicense: mit\n---\n', {"license": "mit"}),
    ("very deep", "---\ngeneral: " + '{"a":' * 100_000 + "\nlicense: mit\n---\n", {"license": "mit"}),
    ("a million digits", '---\ngeneral: {"a": ' + "1" * 10**6 + "}\nlicense: mit\n---\n", {"license": "mit"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "card"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_what_is_odd_is_passed_over(tmp_path: Path, text: str, card: Card) -> None:
    assert read(tmp_path, text) == card


def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, b"---\nauthor: \xff\xfe\nlicense: mit\n---\n")["license"] == "mit"


HUGE = {
    "a list of a million": b"---\ntags:\n" + b"- a\n" * 1_000_000 + b"---\n",
    "a million keys": b"---\n" + b"".join(b"k%d: v\n" % i for i in range(300_000)) + b"---\n",
    "one line": b"---\nlicense: " + b"a: " * 1_000_000 + b"\n---\n",
    "spaces": b"---\nlicense: a" + b" " * 4_000_000 + b"b\n---\n",
    "64 MB without an end": b"---\n" + b"x" * (64 << 20),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_card_takes_seconds_at_most(tmp_path: Path, name: str) -> None:
    start = time.process_time()
    read(tmp_path, HUGE[name])
    assert time.process_time() - start < 5


def test_a_count_of_billions_costs_nothing() -> None:
    data = model_card.write({"base_model.count": 2**32 - 1, "dataset.count": 2**32 - 1})
    assert data is not None
    assert len(data) < 200


def test_a_link_that_leaves_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "m" / "README.md").symlink_to("../secret")
    with pytest.raises(UnsafeError):
        model_card.read(tmp_path / "m")
