"""Models with something changed at random, in every format: what may come of it is a model or one clear refusal.

A `Base` is a tiny model that opens. `mutations` changes one of its files as a broken disk, a bad editor or an attacker
would: bits flipped, bytes set, cut out, doubled, swapped, taken from another file, numbers at the edges of their types,
values of JSON of another kind, records of an archive with everything around them made right again. The same seed gives
the same mutations. By hand, 20,000 of them, and what they cost:

    python -m tests.fakes.fuzz 20000 [SEED]
"""

from __future__ import annotations

import copy
import io
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import plan
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.errors import ConversionError, UnrepresentableError
from converters.formats import open_checkpoint
from converters.input_file import InputFile
from converters.recipe import Recipe
from distro.errors import exit_code
from distro.inspect.container import read_container
from distro.inspect.inspection import inspect
from distro.inspect.inspection_facts import described, facts
from distro.inspect.inspection_page import page
from distro.runtime.tokenizer import Tokenizer
from tests.fakes import gguf_bytes, gguf_forms, meta_release, old_ggml, tiny_llama
from tests.fakes.memory_sink import MemorySink

MIB = 2**20
MOST_CPU_S = 2.0
MOST_MEMORY = 256 * MIB

Files = Mapping[str, bytes]
# What numbers are compared with, and what they overflow at.
_EDGES = tuple(
    number + step for number in (0, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32, 2**53, 2**63, 2**64) for step in (-1, 0, 1)
)
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x20, 0x22, 0x5C, 0x1B)
_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**53 + 1, 2**63, 10**30, 10**99, 1.5, -0.0, 1e-45, 1e-320, 1e308,
    -1e308, "", "x", "4096", "\0", "\x1b[2J", "\u202e", "e\u0301", "\U0010ffff", "../x", "/etc/passwd", "CON",
    "x" * 5000, [], {}, [[]], [None], ["x"], {"x": None}, [0] * 1000,
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A model that opens. files: by name. opened: which of them is named to a command, "" for their folder."""

    name: str
    files: Files
    opened: str = ""

    def write(self, folder: Path, files: Files | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in (files or self.files).items():
            (folder / name).write_bytes(data)
        return folder / self.opened


def bases(folder: Path) -> tuple[Base, ...]:
    """One model of each format, made below a folder."""

    def read(name: str) -> Files:
        return {path.name: path.read_bytes() for path in sorted((folder / name).iterdir())}

    def made(name: str, **options: Any) -> Base:
        tiny_llama.write(folder / name, **options)
        return Base(name, read(name))

    made_of_spm = meta_release.write(folder / "meta", n_shards=2)
    meta_release.write(folder / "llama3", "llama-3.2")
    mistral = _converted(made_of_spm, "mistral", folder / "mistral")
    legacy = made("bin")
    legacy = Base("legacy", dict(legacy.files) | {"pytorch_model.bin": _in_the_old_form(legacy.files)})
    shards = {f"m-0000{n}-of-00003.gguf": data for n, data in enumerate(gguf_forms.V3.shards(), 1)}
    old = [
        Base(name, {"ggml-model.bin": old_ggml.model(name, kinds[kind]).build()}, "ggml-model.bin")
        for name, kinds, kind in (("GGML", old_ggml.V1, "Q4_0_V1"), ("GGJT v2", old_ggml.V2, "Q5_1"))
    ]
    spm = _converted(made_of_spm, "gguf", folder / "spm")
    return (
        Base("GGUF", {"model.gguf": gguf_bytes.llama().build()}, "model.gguf"),
        Base("GGUF v1", {"model.gguf": gguf_forms.V1.llama()}, "model.gguf"),
        Base("GGUF v3 big-endian", {"model.gguf": gguf_forms.V3_BIG.llama()}, "model.gguf"),
        Base("GGUF of SentencePiece", spm, next(iter(spm))),
        Base("GGUF in shards", shards, "m-00001-of-00003.gguf"),
        *old,
        made("safetensors"),
        made("safetensors-sharded", container="safetensors-sharded", tied=True),
        made("bin", container="bin"),
        legacy,
        Base("Meta", read("meta")),
        Base("Llama 3", read("llama3")),
        Base("Mistral", mistral),
    )


def _converted(source: Path, target: str, folder: Path) -> Files:
    with open_checkpoint(source) as checkpoint:
        sink = MemorySink()
        convert(checkpoint, plan.make(checkpoint, Recipe(target, "bf16"), "m"), sink)
    return {path.name: path.read_bytes() for path in sorted(sink.save(folder).iterdir())}


def _in_the_old_form(files: Files) -> bytes:
    import torch
    from safetensors.torch import load

    memory = io.BytesIO()
    torch.save(load(files["model.safetensors"]), memory, _use_new_zipfile_serialization=False)
    return memory.getvalue()


@dataclass(frozen=True)
class Mutation:
    """One changed model. what: in words, with which it can be found again."""

    base: Base
    what: str
    files: Files


def mutations(models: tuple[Base, ...], count: int, seed: int = 0) -> Iterator[Mutation]:
    """So many, of all models in turn."""
    chance = random.Random(seed)
    heads = {(base.name, name): _head(name, data) for base in models for name, data in base.files.items()}
    for number in range(count):
        base = models[number % len(models)]
        name = chance.choice(list(base.files))
        other = chance.choice([data for each in models for data in each.files.values()])
        data, what = _mutated(chance, base.files[name], heads[base.name, name], other)
        yield Mutation(base, f"{seed}/{number}: {base.name}/{name}: {what}", {**base.files, name: data})


def _head(name: str, data: bytes) -> int:
    """How many bytes stand before the weights, where most mutations should be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            with InputFile(path) as file:
                return min(offset for _, offset in read_container(file).tensors)
        except (ConversionError, ValueError):
            return len(data)


def _mutated(chance: random.Random, data: bytes, head: int, other: bytes) -> tuple[bytes, str]:
    if (root := _object(data)) and chance.random() < 0.7:
        return _with_other_values(chance, root)
    if (root := _object(data[8:head])) and chance.random() < 0.5:  # safetensors
        text, what = _with_other_values(chance, root)
        return len(text).to_bytes(8, "little") + text + data[head:], f"header, {what}"
    if data[:2] == b"PK" and chance.random() < 0.7:
        return _with_another_record(chance, data)
    changed, names = bytearray(data), []
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        change = chance.choice(_CHANGES)
        at = chance.randrange(max(1, min(head, len(changed)) if chance.random() < 0.9 else len(changed)))
        names.append(f"{change.__name__[1:]} at {at}")
        change(chance, changed, at, other)
    return bytes(changed), ", ".join(names)


def _flip(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    if data:
        data[at] ^= 1 << chance.randrange(8)


def _put(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    if data:
        data[at] = chance.choice(_BYTES)


def _edge(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice(_EDGES) % 2 ** (8 * width)
    data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))


def _remove(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    del data[at : at + chance.choice((1, 2, 4, 8, 64, len(data)))]


def _double(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    width = chance.choice((1, 4, 8, 32, 500))
    data[at:at] = data[at : at + width] * chance.choice((1, 2, 50))


def _swap(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    """Two neighbours of the same width: counts with types, lengths with offsets."""
    width = chance.choice((1, 4, 8, 40))
    data[at : at + 2 * width] = data[at + width : at + 2 * width] + data[at : at + width]


def _splice(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    start = chance.randrange(max(1, min(len(other), 4000)))
    part = other[start : start + chance.choice((4, 40, 400))]
    data[at : at + chance.choice((0, len(part)))] = part


def _extend(chance: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data += chance.choice((b"\0", b"x" * 40, b"PK\x05\x06" + bytes(18), other[:200], bytes(5000)))


_CHANGES: tuple[Callable[[random.Random, bytearray, int, bytes], None], ...] = (
    _flip, _put, _edge, _edge, _remove, _double, _swap, _splice, _extend,
)  # fmt: skip


def _object(data: bytes) -> dict[str, Any]:
    """What JSON says, nothing where it is none."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _with_other_values(chance: random.Random, root: Any) -> tuple[bytes, str]:
    """JSON with a few of its values, or keys, replaced or gone."""
    names = []
    for _ in range(chance.choice((1, 1, 2))):
        node, path = root, ""
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = chance.choice(keys)
            child, path = node[key], f"{path}/{key}"
            if isinstance(child, (dict, list)) and child and chance.random() < 0.85:
                node = child
                continue
            act = chance.randrange(5)
            if act == 0:
                del node[key]
            elif act == 1 and isinstance(node, dict):
                node[str(chance.choice(_VALUES))[:300]] = node.pop(key)
            elif act == 2 and isinstance(child, (int, float)):
                node[key] = chance.choice((-child, child + 1, child - 1, 2 * child, child + 0.5, str(child)))
            else:
                node[key] = copy.deepcopy(chance.choice(_VALUES))
            names.append(f"{path} {('gone', 'renamed', 'moved', 'other', 'other')[act]}")
            break
    return json.dumps(root, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass"), ", ".join(names)


def _with_another_record(chance: random.Random, data: bytes) -> tuple[bytes, str]:
    """An archive of which one record was mutated, renamed, doubled or left out, with everything else made right."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        records = {name: old.read(name) for name in old.namelist()}
    names = list(records)
    chosen = names[0] if chance.random() < 0.7 else chance.choice(names)  # torch's first record is the pickle
    act = chance.choice(("mutated", "mutated", "mutated", "renamed", "gone", "twice"))
    if act == "mutated":
        records[chosen], act = _mutated(chance, records[chosen], len(records[chosen]), data)
    elif act == "renamed":
        other = chance.choice(("x", "../x", chosen + "x", "m/code/x.py", chosen[:-1] + "?"))
        records = {other if name == chosen else name: content for name, content in records.items()}
    elif act == "gone":
        del records[chosen]
    else:
        records[chosen + "2"] = records[chosen]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as new:
        for name, content in records.items():
            new.writestr(name, content)
    return memory.getvalue(), f"record {chosen}, {act}"


@dataclass(frozen=True)
class Fault:
    """What must not be: anything but a model or an error of ours, more time or memory than there is, two verdicts."""

    mutation: Mutation
    why: str


def judge(mutation: Mutation, folder: Path) -> tuple[str, Fault | None]:
    """What the library, `inspect` and a conversion make of it: a verdict (`opened`, an error's name), and the fault."""
    path = mutation.base.write(folder, mutation.files)
    before = _resident()
    start = time.process_time()
    try:
        verdict = _verdict(path)
        why = ""
    except Exception:
        verdict, why = "fault", traceback.format_exc()
    cpu_s, memory = time.process_time() - start, _resident() - before
    if cpu_s > MOST_CPU_S:
        why += f" {cpu_s:.1f} s"
    if memory > MOST_MEMORY:
        why += f" {memory // MIB} MiB"
    return verdict, Fault(mutation, why) if why else None


def _verdict(path: Path) -> str:
    try:
        with open_checkpoint(path) as checkpoint:
            verdict = _use(checkpoint)
    except (ConversionError, OSError) as error:
        _inspect(path, error)
        return type(error).__name__
    _inspect(path, None)
    return verdict


def _use(checkpoint: Checkpoint) -> str:
    """Cut a text with its tokenizer, convert it in every way that it can be; refused by rule is as good as done."""
    done = "opened"
    if checkpoint.vocabulary is not None:
        try:
            tokenizer = Tokenizer(checkpoint.vocabulary)
            tokenizer.decode(tokenizer.encode("Hello <s> world 12 ü", parse_special=True))
        except ConversionError as error:
            done = f"opened, and {type(error).__name__} for its tokenizer"
    for target, mix in (("gguf", "q8_0"), ("safetensors", "f16"), ("pth", "bf16"), ("mistral", "f32")):
        try:
            made = plan.make(checkpoint, Recipe(target, mix), "m", made_by="fuzz")
            convert(checkpoint, made, MemorySink())
        except UnrepresentableError:
            done = "opened, and no numbers"
        except ConversionError as error:
            done = f"opened, and {type(error).__name__} for {target}"
    return done


def _inspect(path: Path, refused: Exception | None) -> None:
    """Raises AssertionError where `inspect` and the library are of two minds."""
    try:
        found = inspect(path, name="m")
    except (ConversionError, OSError) as error:
        assert refused is not None and exit_code(error) == exit_code(refused), f"inspect: {error!r}, open: {refused!r}"
        assert str(error).isprintable(), error
        return
    assert (found.checkpoint is None) == (refused is not None), f"inspect is content, open: {refused!r}"
    list(facts(found))
    json.dumps(described(found), allow_nan=False)
    page(found).encode()


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    verdicts: Counter[str] = Counter()
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        models = bases(Path(name) / "bases")
        for base in models:
            base.write(Path(name) / base.name)
        start, base_memory = time.process_time(), _resident()
        for mutation in mutations(models, count, seed):
            verdict, fault = judge(mutation, Path(name) / mutation.base.name)
            verdicts[f"{mutation.base.name:24} {verdict}"] += 1
            if fault is not None and (key := fault.why.splitlines()[-2:][0]) not in seen:
                seen.add(key)
                print(f"{fault.mutation.what}\n{fault.why}", flush=True)
            for each in mutation.base.files:
                (Path(name) / mutation.base.name / each).write_bytes(mutation.base.files[each])
    for verdict, number in sorted(verdicts.items()):
        print(f"{number:7} {verdict}")
    print(f"{count} mutations, {time.process_time() - start:.0f} s, {(_resident() - base_memory) // MIB} MiB more")


if __name__ == "__main__":
    main()
