"""Models that are elsewhere: what crosses the network, what is chosen, what is proven, what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.errors import MalformedError, UnsafeError
from distro.config import Settings
from distro.errors import NotFoundError, NotPermittedError, ProtocolError, SourceError, UsageError, WrongBytesError
from distro.inspect.inspection import Inspection
from distro.inspect.remote import remote_checkpoint, remote_folder
from distro.inspect.whereabouts import inspect_reference
from distro.manifest import File, Model, Variant
from distro.sources.hub import variant_from_hub
from tests.fakes import gguf_bytes, meta_release, tiny_llama
from tests.fakes.hub import FakeHub, Fault, LargeFile, serving, sha256
from tests.fakes.store import put

GIB = 2**30
# A model of 2.5 GiB: a header of two kilobytes, and weights that nobody reads.
HUGE_SHAPES = gguf_bytes.LLAMA_SHAPES | {
    "token_embd.weight": (2**22, 32), "output.weight": (2**22, 32),
    "blk.0.ffn_gate.weight": (2**22, 32), "blk.0.ffn_up.weight": (2**22, 32), "blk.0.ffn_down.weight": (32, 2**22),
}  # fmt: skip


def _huge() -> LargeFile:
    entries, end = [], 0
    for name, shape in HUGE_SHAPES.items():
        entries.append(gguf_bytes.tensor(name, shape[::-1], gguf_bytes.F32, end))
        end += 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    keys = gguf_bytes.llama_keys(feed_forward_length=gguf_bytes.uint32("llama.feed_forward_length", 2**22))
    head = gguf_bytes.Gguf(keys, tuple(entries)).build()
    return LargeFile(head, len(head) + end, key=b"weights")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def settings(tmp_path: Path, hub: FakeHub) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, timeout_s=5.0, retries=1)


def _files(folder: Path) -> dict[str, bytes | LargeFile]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _look(settings: Settings, text: str) -> Inspection:
    return inspect_reference(settings, text)


def test_a_gguf_of_gigabytes_costs_its_header(hub: FakeHub, settings: Settings) -> None:
    huge = _huge()
    assert len(huge) > 2.5 * GIB
    hub.add("them/huge", {"README.md": b"x", "huge.gguf": huge})
    found = _look(settings, "hf:them/huge")
    assert found.size == len(huge)
    assert found.checkpoint is not None
    assert found.parameters is not None
    assert found.parameters.hidden_dim == 2**22
    assert len(found.tensors) == 12
    assert found.n_read == hub.n_sent() - 1  # the byte that asked whether anybody is there
    assert hub.n_sent() <= 2**20 + 2**18  # the reader's window
    assert not any(request.path.endswith("README.md") for request in hub.transfers())


def test_the_same_by_its_address(hub: FakeHub, settings: Settings) -> None:
    hub.plain["models/huge.gguf"] = _huge()
    found = _look(settings, f"{hub.url}/plain/models/huge.gguf?token=secret")
    assert found.checkpoint is not None
    assert "secret" not in found.name + found.source
    assert hub.n_sent() <= 2**20 + 2**18


def test_safetensors_of_gigabytes_by_their_address(hub: FakeHub, settings: Settings) -> None:
    header = {"a": {"dtype": "F32", "shape": [2 * GIB], "data_offsets": [0, 8 * GIB]}}
    text = json.dumps(header).encode()
    head = struct.pack("<Q", len(text)) + text
    hub.plain["model.safetensors"] = LargeFile(head, len(head) + 8 * GIB)
    found = _look(settings, f"{hub.url}/plain/model.safetensors")
    assert "config.json: not found" in found.note
    assert found.n_bytes == 8 * GIB
    assert hub.n_sent() <= 2**18 + 1


@pytest.mark.parametrize("container", ["safetensors", "safetensors-sharded", "bin", "bin-sharded"])
def test_folders_of_hugging_face(
    hub: FakeHub, settings: Settings, tmp_path: Path, container: tiny_llama.Container
) -> None:
    hub.add("them/hf", _files(tiny_llama.write(tmp_path / "m", container=container)) | {"training.log": b"x" * 2000})
    found = _look(settings, "hf:them/hf@main")
    assert found.checkpoint is not None
    assert found.n_weights == 37_024
    assert found.vocabulary is not None
    assert not any(request.path.endswith("training.log") for request in hub.transfers())


def test_a_release_of_metas_in_a_folder_below(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    release = _files(meta_release.write(tmp_path / "m", "llama-3", 2))
    below = {f"original/{name}": data for name, data in release.items()}
    hub.add("them/meta", _files(tiny_llama.write(tmp_path / "hf")) | below)
    for inside in ("original", "original/", "original/consolidated.00.pth"):
        found = _look(settings, f"hf:them/meta:{inside}")
        assert found.checkpoint is not None
        assert found.checkpoint.format == "meta"
        assert [each.name for each in found.containers] == ["consolidated.00.pth", "consolidated.01.pth"]
    assert _look(settings, "hf:them/meta").n_weights == 37_024


def test_a_split_gguf_is_seen_whole(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    whole = gguf_bytes.llama()
    parts: dict[str, bytes | LargeFile] = {}
    offsets = [4 * sum(_n_weights(shape) for shape in list(gguf_bytes.LLAMA_SHAPES.values())[:6])]
    names = list(gguf_bytes.LLAMA_SHAPES.items())
    for number, some in enumerate((names[:6], names[6:])):
        entries, end = [], 0
        for name, shape in some:
            entries.append(gguf_bytes.tensor(name, shape[::-1], gguf_bytes.F32, end))
            end += 4 * _n_weights(shape)
        keys = (
            gguf_bytes.key("split.no", gguf_bytes.UINT16, struct.pack("<H", number)),
            gguf_bytes.key("split.count", gguf_bytes.UINT16, struct.pack("<H", 2)),
            gguf_bytes.key("split.tensors.count", gguf_bytes.INT32, struct.pack("<i", len(names))),
        )
        data = whole.data[: offsets[0]] if number == 0 else whole.data[offsets[0] :]
        shard = gguf_bytes.Gguf((*(gguf_bytes.llama_keys() if number == 0 else ()), *keys), tuple(entries), data)
        parts[f"q4/m-0000{number + 1}-of-00002.gguf"] = shard.build()
    hub.add("them/split", parts)
    found = _look(settings, "hf:them/split")
    assert found.checkpoint is not None
    assert [len(each.tensors) for each in found.containers] == [6, 6]


def _n_weights(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def test_one_of_several_models_must_be_named(hub: FakeHub, settings: Settings) -> None:
    data = gguf_bytes.llama().build()
    hub.add("them/many", {"m-Q4.gguf": data, "m-Q8.gguf": data, "config.json": b"{}"})
    with pytest.raises(
        UsageError, match=r"has 2 models, m-Q4\.gguf, m-Q8\.gguf; choose one, as in REF:m-Q4\.gguf or --only m-"
    ):
        _look(settings, "hf:them/many")
    assert _look(settings, "hf:them/many:m-Q8.gguf").checkpoint is not None
    with pytest.raises(NotFoundError, match=r"has no m-Q5\.gguf; did you mean"):
        _look(settings, "hf:them/many:m-Q5.gguf")
    hub.add("them/none", {"README.md": b"x"})
    with pytest.raises(NotFoundError, match="no weights among its 1 files"):
        _look(settings, "hf:them/none")


def test_companions_are_proven(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    hub.add("them/hf", _files(tiny_llama.write(tmp_path / "m")))
    model, variant = variant_from_hub(settings, "them/hf")
    hub.faults.append(Fault(path="/config.json", flip_at=10))
    with (
        pytest.raises(WrongBytesError, match=r"config\.json: (git_sha1|sha256) is "),
        remote_folder(settings, model, variant),
    ):
        pass


def test_what_is_wrong_with_a_file_is_said_of_the_model(hub: FakeHub, settings: Settings) -> None:
    hub.add("them/bad", {"x.gguf": gguf_bytes.llama().build() + b"zip"})
    with pytest.raises(MalformedError, match=r"^them/bad/x\.gguf: trailing bytes at "):
        _look(settings, "hf:them/bad")
    hub.add("them/evil", {"x.bin": b"cos\nsystem\n(S'true'\ntR."})
    with pytest.raises(UnsafeError, match=r"^them/evil/x\.bin: "):
        _look(settings, "hf:them/evil")
    hub.add("them/small", {"x.gguf": gguf_bytes.SMALL.build()})
    assert _look(settings, "hf:them/small").note.startswith("them/small/x.gguf: general.architecture: found small")


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, settings: Settings) -> None:
    from dataclasses import replace

    data = gguf_bytes.llama().build()
    hub.add("them/gated", {"x.gguf": data}, gated=True)
    with pytest.raises(NotPermittedError, match="HF_TOKEN"):
        _look(replace(settings, hub_token="hf_wrong"), "hf:them/gated")
    with serving() as cdn:
        cdn.plain["x.gguf"] = data
        hub.faults.append(Fault(redirect=f"{cdn.url}/plain/x.gguf"))
        assert _look(replace(settings, hub_token="hf_right"), "hf:them/gated").checkpoint is not None
        assert all("authorization" in request.headers for request in hub.transfers())
        assert cdn.requests
        assert not any("authorization" in request.headers for request in cdn.requests)


def test_the_next_source_is_asked_where_one_fails(hub: FakeHub, settings: Settings) -> None:
    data = gguf_bytes.llama().build()
    hub.plain["there/x.gguf"] = data
    sources = (f"{hub.url}/plain/gone/", "index:pkg==1.0/folder", f"{hub.url}/plain/there/")
    variant = Variant("q4", "gguf", (File("x.gguf", len(data)),), sources)
    model = Model("m", 0, "llama", "q4", (variant,))
    with remote_checkpoint(settings, model, variant) as checkpoint:
        assert checkpoint.hyperparameters.n_layers == 1
        assert checkpoint.tensors["output.weight"].info.shape == (8, 32)
    with (
        pytest.raises(NotFoundError, match="m:q4: none of its sources can be read in parts; `distro fetch m:q4`"),
        remote_checkpoint(settings, model, Variant("q4", "gguf", variant.files, sources[1:2])),
    ):
        pass


def test_another_size_than_the_manifest_says(hub: FakeHub, settings: Settings) -> None:
    data = gguf_bytes.llama().build()
    hub.plain["x.gguf"] = data
    variant = Variant("q4", "gguf", (File("x.gguf", len(data) + 1),), (f"{hub.url}/plain/",))
    with (
        pytest.raises(ProtocolError, match=f"has {len(data)} bytes of x"),
        remote_folder(settings, Model("m", 0, "", "q4", (variant,)), variant),
    ):
        pass


def test_weights_can_be_read_too(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    """A plan for a conversion needs none, but whoever has the checkpoint may ask."""
    local = tiny_llama.write(tmp_path / "m")
    hub.add("them/hf", _files(local))
    model, variant = variant_from_hub(settings, "them/hf")
    from converters.formats import open_checkpoint

    with remote_checkpoint(settings, model, variant) as there, open_checkpoint(local) as here:
        for name, tensor in here.tensors.items():
            rows = tensor.info.n_rows
            assert there.tensors[name].read_rows(0, rows).tobytes() == tensor.read_rows(0, rows).tobytes()


def test_nothing_is_left_behind(
    hub: FakeHub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    hub.add("them/hf", _files(tiny_llama.write(tmp_path / "m", container="safetensors-sharded")))
    assert _look(settings, "hf:them/hf").checkpoint is not None
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_what_is_here_is_looked_at_here(hub: FakeHub, settings: Settings) -> None:
    put(settings.home, "them/x", "0123456789ab", {"x.gguf": gguf_bytes.llama().build()})
    found = _look(settings, "hf:them/x")
    assert found.n_read is None
    assert found.receipt is not None
    assert _look(settings, "hf:them/x:x.gguf").n_read is None
    assert hub.requests == []


def test_a_name_that_is_not_here(hub: FakeHub, settings: Settings) -> None:
    data = gguf_bytes.llama().build()
    repo = hub.add("them/tiny", {"x.gguf": data})
    manifest = f"""\
schema = 1
family = "tiny"
publisher = "them"

[license]
id = "MIT"
url = "https://example.com/license"
redistribution = "allowed"

[[model]]
name = "tiny"
parameters = 9824
architecture = "llama"
default = "q4"

[[model.variant]]
name = "q4"
format = "gguf"
gated = false
sources = ["hf:them/tiny@{repo.commit}"]

[[model.variant.file]]
path = "x.gguf"
size = {len(data)}
sha256 = "{sha256(data)}"
origin = ["them/tiny@{repo.commit}:x.gguf"]
"""
    folder = settings.config_folder / "manifests"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(manifest)
    found = _look(settings, "tiny")
    assert (found.name, found.n_weights) == ("tiny:q4", 9824)
    assert found.source == f"hub them/tiny@{repo.commit[:7]}"
    put(settings.home, "tiny", "q4", {"x.gguf": data})
    assert _look(settings, "tiny").n_read is None


@pytest.mark.parametrize("text", ["hf:them/hf", "hf:them/hf:x.gguf", "https://example.com/model.gguf", "llama-13b"])
def test_offline_nothing_is_asked(tmp_path: Path, text: str) -> None:
    settings = Settings(tmp_path / "home", tmp_path / "config", offline=True)
    with pytest.raises(SourceError, match="offline"):
        _look(settings, text)
