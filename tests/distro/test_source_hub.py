"""The hub: what huggingface_hub says of a repository, and its bytes through our own reader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import (
    DistroError,
    MalformedManifestError,
    NotFoundError,
    NotPermittedError,
    ProtocolError,
    SourceError,
    WrongBytesError,
    exit_code,
)
from distro.fetch import fetch
from distro.progress import Silent
from distro.sources.hub import variant_from_hub
from distro.store import Store
from tests.fakes.hub import FakeHub, Fault, serving

SHARD = bytes(range(256)) * 8000  # 2,048,000 bytes
FILES = {
    "config.json": b'{"model_type": "llama"}\n',
    "model-00001-of-00002.safetensors": SHARD,
    "model-00002-of-00002.safetensors": SHARD[::-1],
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "sub dir/a b+c.txt": b"a name with a blank and a plus",
    "empty.txt": b"",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def settings(hub: FakeHub, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, timeout_s=5.0, retries=2)


def _fetch(settings: Settings, repo: str = "owner/model", revision: str | None = None) -> Path:
    return fetch(settings, *variant_from_hub(settings, repo, revision), progress=Silent())


def test_huggingface_hub_itself_takes_the_fake_for_real(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    repo = hub.add("owner/model", FILES)
    api = HfApi(endpoint=hub.url)
    assert api.model_info("owner/model").sha == repo.commit
    assert [ref.target_commit for ref in api.list_repo_refs("owner/model").branches] == [repo.commit]
    folder = Path(snapshot_download("owner/model", endpoint=hub.url, cache_dir=tmp_path))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    one = hf_hub_download("owner/model", "config.json", endpoint=hub.url, cache_dir=tmp_path, revision=repo.commit)
    assert Path(one).read_bytes() == FILES["config.json"]


def test_a_variant_is_made_from_the_hubs_digests_and_pinned(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", FILES)
    hub.page = 2  # as many requests as it takes
    model, variant = variant_from_hub(settings, "owner/model", "main")
    assert (model.name, model.architecture) == ("owner/model", "llama")
    assert (variant.name, variant.format) == (repo.commit[:12], "safetensors")
    assert variant.sources == (f"hf:owner/model@{repo.commit}",)
    files = {file.path: file for file in variant.files}
    assert files.keys() == FILES.keys()
    shard = files["model-00001-of-00002.safetensors"]
    assert (shard.size, shard.sha256) == (2_048_000, hashlib.sha256(SHARD).hexdigest())
    assert files["empty.txt"].git_sha1 == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's empty blob
    assert files["empty.txt"].sha256 is None
    assert shard.origin == (f"owner/model@{repo.commit}:model-00001-of-00002.safetensors",)


def test_a_sharded_repository_arrives_whole(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", FILES)
    folder = _fetch(settings)
    assert folder == settings.home / "models" / "owner--model" / repo.commit[:12]
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    receipt = Store(settings.home).receipt("owner/model", repo.commit[:12])
    assert receipt is not None
    assert receipt.files["model-00001-of-00002.safetensors"].source == f"hub owner/model@{repo.commit[:7]}"
    assert receipt.files.keys() == FILES.keys()
    n_before = len(hub.transfers())
    assert _fetch(settings) == folder
    assert len(hub.transfers()) == n_before  # nothing is asked for twice


def test_a_pinned_revision_is_asked_for_by_its_commit(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", FILES)
    _fetch(settings, revision=repo.commit)
    assert all(f"/owner/model/resolve/{repo.commit}/" in request.path for request in hub.transfers())


def test_what_is_here_is_read_again_and_keeps_its_entry(hub: FakeHub, settings: Settings) -> None:
    """The hub has no SHA-256 of small files, so they are proven by git's names of them."""
    hub.add("owner/model", FILES)
    folder = _fetch(settings)
    before = (folder / "receipt.json").read_bytes()
    hub.requests.clear()
    _fetch(settings)
    assert hub.transfers() == []
    assert (folder / "receipt.json").read_bytes() == before


def test_offline_what_came_before_a_fetch_failed_is_not_taken_for_all(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", FILES)
    repo.hidden = frozenset({max(FILES)})
    with pytest.raises(SourceError):
        _fetch(settings)
    with pytest.raises(SourceError, match=r"offline .* 1 of its files are not here"):
        _fetch(replace(settings, offline=True))
    repo.hidden = frozenset()
    assert _fetch(settings) == _fetch(replace(settings, offline=True))


def test_offline_gives_what_the_store_holds(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", FILES)
    folder = _fetch(settings)
    offline = replace(settings, offline=True)
    hub.requests.clear()
    assert _fetch(offline, revision=repo.commit) == folder
    with pytest.raises(SourceError, match="offline") as caught:
        _fetch(offline, "owner/other")
    assert exit_code(caught.value) == 75
    assert hub.requests == []


@pytest.mark.parametrize(("token", "status"), [(None, "401"), ("hf_wrong", "403")])
def test_a_gated_repository_says_where_to_ask_and_how(
    hub: FakeHub, settings: Settings, token: str | None, status: str
) -> None:
    from dataclasses import replace

    hub.add("owner/model", FILES, gated=True)
    with pytest.raises(NotPermittedError) as caught:
        _fetch(replace(settings, hub_token=token))
    assert exit_code(caught.value) == 77
    assert status in str(caught.value)
    assert f"{hub.url}/owner/model" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    assert "hf_wrong" not in str(caught.value)
    assert len(hub.transfers()) == 1  # no second try, no second file


def test_the_right_token_opens_a_gated_repository(hub: FakeHub, settings: Settings) -> None:
    from dataclasses import replace

    hub.add("owner/model", FILES, gated=True)
    assert (_fetch(replace(settings, hub_token="hf_right")) / "config.json").read_bytes() == FILES["config.json"]


def test_the_token_goes_to_the_hub_and_to_no_other_origin(hub: FakeHub, settings: Settings) -> None:
    from dataclasses import replace

    hub.add("owner/model", {"model.safetensors": SHARD}, gated=True)
    with serving() as cdn:  # the same host, another port
        cdn.plain["blob"] = SHARD
        hub.faults = [Fault(redirect=f"{cdn.url}/plain/blob?signature=secret")]
        folder = _fetch(replace(settings, hub_token="hf_right"))
        assert folder.read_bytes() == SHARD
        assert [request.headers.get("authorization") for request in hub.transfers()] == ["Bearer hf_right"]
        assert [request.headers.get("authorization") for request in cdn.requests] == [None]


def test_a_wrong_byte_is_79_and_names_the_source(hub: FakeHub, settings: Settings) -> None:
    repo = hub.add("owner/model", {"model.safetensors": SHARD})
    hub.faults = [Fault(flip_at=1_000_000)]
    with pytest.raises(WrongBytesError) as caught:
        _fetch(settings)
    assert exit_code(caught.value) == 79
    assert f"from hub owner/model@{repo.commit[:7]}" in str(caught.value)
    assert hashlib.sha256(SHARD).hexdigest() in str(caught.value)
    assert list((settings.home / "models").rglob("*.safetensors")) == []
    (aside,) = settings.home.glob("partial/*.wrong")
    assert aside.stat().st_size == len(SHARD)
    hub.faults = []
    assert _fetch(settings).read_bytes() == SHARD


def test_a_file_that_the_listing_has_and_the_hub_has_not_is_66(hub: FakeHub, settings: Settings) -> None:
    hub.add("owner/model", {"model.safetensors": SHARD}, hidden=frozenset({"model.safetensors"}))
    with pytest.raises(SourceError, match="404") as caught:
        _fetch(settings)
    assert exit_code(caught.value) == 66


@pytest.mark.parametrize(
    ("repo", "revision", "error", "code"),
    [
        ("owner/none", None, NotFoundError, 66),
        ("owner/model", "no-such-branch", NotFoundError, 66),
        ("not a repo", None, MalformedManifestError, 65),
    ],
)
def test_what_is_not_there(
    hub: FakeHub, settings: Settings, repo: str, revision: str | None, error: type[DistroError], code: int
) -> None:
    hub.add("owner/model", FILES)
    with pytest.raises(error) as caught:
        variant_from_hub(settings, repo, revision)
    assert exit_code(caught.value) == code


@pytest.mark.parametrize(
    ("entry", "error", "code"),
    [
        ({"path": "../evil", "size": 1, "oid": "0" * 40}, MalformedManifestError, 65),
        ({"path": "/etc/passwd", "size": 1, "oid": "0" * 40}, MalformedManifestError, 65),
        ({"path": "a\x1b[2Jb", "size": 1, "oid": "0" * 40}, MalformedManifestError, 65),
        ({"path": "x", "size": -1, "oid": "0" * 40}, ProtocolError, 76),
        ({"path": "x", "size": 2**63, "oid": "0" * 40}, ProtocolError, 76),
        ({"path": "x", "size": "1", "oid": "0" * 40}, ProtocolError, 76),
        ({"path": "x", "size": 1, "oid": "../../x"}, ProtocolError, 76),
        ({"path": "x", "oid": "0" * 40}, ProtocolError, 76),
        ({"path": "x", "size": 1, "oid": "0" * 40, "lfs": {"oid": "A" * 64, "size": 1, "pointerSize": 9}},
         ProtocolError, 76),
        ({"path": "x", "size": 1, "oid": "0" * 40, "lfs": {"oid": "a" * 64}}, ProtocolError, 76),
    ],
)  # fmt: skip
def test_a_hostile_listing(
    hub: FakeHub, settings: Settings, entry: dict[str, object], error: type[DistroError], code: int
) -> None:
    hub.add("owner/model", FILES, listed=[{"type": "file", **entry}])
    with pytest.raises(error) as caught:
        variant_from_hub(settings, "owner/model")
    assert exit_code(caught.value) == code
    assert "\x1b" not in str(caught.value)


def test_a_hub_that_is_away_is_75(settings: Settings) -> None:
    from dataclasses import replace

    with pytest.raises(SourceError) as caught:
        variant_from_hub(replace(settings, hub_endpoint="http://127.0.0.1:9"), "owner/model")
    assert exit_code(caught.value) == 75
