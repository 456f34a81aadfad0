"""Proxies and certificates of the environment, for our own reader and for huggingface_hub: real ones on loopback."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import DistroError, NotPermittedError, ProtocolError, SourceError, UsageError
from distro.manifest import File, Variant
from distro.sources.client import check_environment, new_client
from distro.sources.http import HttpSource
from distro.sources.hub import variant_from_hub
from tests.fakes.certificates import Authority, make_authority
from tests.fakes.hub import FakeHub, serving
from tests.fakes.proxy import FakeProxy

DATA = b"0123456789" * 10_000
VARIANTS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub import close_session

    for name in VARIANTS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    close_session()  # its client knows the environment of the test before
    check_environment.cache_clear()
    yield
    close_session()
    check_environment.cache_clear()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield _filled(hub)


@pytest.fixture
def secure(authority: Authority) -> Iterator[FakeHub]:
    with serving(authority.server) as hub:
        yield _filled(hub)


@pytest.fixture
def proxy() -> Iterator[FakeProxy]:
    with FakeProxy().running() as proxy:
        yield proxy


def _filled(hub: FakeHub) -> FakeHub:
    hub.add("owner/model", {"model.bin": DATA})
    hub.plain["model.bin"] = DATA
    return hub


def _of_hub(hub: FakeHub, tmp_path: Path) -> bytes:
    settings = Settings(tmp_path, tmp_path, hub_endpoint=hub.url, timeout_s=5)
    _, variant = variant_from_hub(settings, "owner/model")
    assert variant.files[0].size == len(DATA)
    return DATA


def _of_mirror(hub: FakeHub, tmp_path: Path) -> bytes:
    file = File("model.bin", len(DATA))
    settings = Settings(tmp_path, tmp_path, timeout_s=5)
    source = HttpSource(settings, f"{hub.url}/plain/", Variant("v", "other", (file,)))
    try:
        return b"".join(bytes(data) for data in source.read(file, 0))
    finally:
        source.close()


Ask = Callable[[FakeHub, Path], bytes]
both = pytest.mark.parametrize("ask", [_of_hub, _of_mirror])


@both
@pytest.mark.parametrize("how", ["file", "folder"])
def test_an_authority_of_ones_own_is_trusted(
    secure: FakeHub, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, how: str
) -> None:
    variable, path = ("SSL_CERT_FILE", authority.file) if how == "file" else ("SSL_CERT_DIR", authority.folder)
    monkeypatch.setenv(variable, str(path))
    assert ask(secure, tmp_path) == DATA


@both
def test_an_unknown_authority_is_refused_at_once_with_the_time_that_the_clock_shows(
    secure: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    other = make_authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.file))
    began = time.monotonic()
    with pytest.raises(ProtocolError, match="certificate not accepted") as caught:
        ask(secure, tmp_path)
    assert time.monotonic() - began < 3
    assert time.strftime("the clock here says %Y-%m-%d") in str(caught.value)
    assert caught.value.exit_code == 76
    assert secure.requests == []


@both
def test_a_certificate_for_another_host_is_refused(
    secure: FakeHub, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    secure.url = secure.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(SourceError):  # nobody listens there, or the certificate is of 127.0.0.1
        ask(secure, tmp_path)


@both
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_is_used(
    hub: FakeHub, proxy: FakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy.address if variable == "http_proxy" else proxy.url)
    assert ask(hub, tmp_path) == DATA
    assert proxy.seen
    assert all(line.startswith(f"GET {hub.url}/") for line in proxy.seen)


@both
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_https_goes_through_a_tunnel_of_the_proxy(
    secure: FakeHub,
    proxy: FakeProxy,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Ask,
    variable: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setenv(variable, proxy.url)
    assert ask(secure, tmp_path) == DATA
    assert set(proxy.seen) == {f"CONNECT {secure.url.removeprefix('https://')}"}


@both
@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "example.org,127.0.0.1"])
def test_no_proxy_is_asked_for_the_hosts_of_no_proxy(
    hub: FakeHub, proxy: FakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, exception: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exception)
    assert ask(hub, tmp_path) == DATA
    assert proxy.seen == []


@both
def test_a_dead_proxy_is_named(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    with pytest.raises(SourceError, match=r"by way of the proxy http://127\.0\.0\.1:1 ") as caught:
        ask(hub, tmp_path)
    assert caught.value.exit_code == 75
    assert "secret" not in str(caught.value)
    assert hub.requests == []


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_no_permission(
    hub: FakeHub,
    secure: FakeHub,
    proxy: FakeProxy,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Ask,
    scheme: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    proxy.wants = "Basic " + base64.b64encode(b"user:secret").decode()
    server = hub if scheme == "http" else secure
    with pytest.raises(NotPermittedError, match="wants a name and a password"):
        ask(server, tmp_path)
    assert server.requests == []
    monkeypatch.setenv("ALL_PROXY", proxy.url.replace("//", "//user:secret@"))
    _forget()
    assert ask(server, tmp_path) == DATA


def _forget() -> None:
    from huggingface_hub import close_session

    close_session()


def test_a_proxy_that_cuts_is_gone_on_from(
    hub: FakeHub, proxy: FakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    proxy.cut_after = 30_000
    file, got = File("model.bin", len(DATA)), b""
    source = HttpSource(Settings(tmp_path, tmp_path), f"{hub.url}/plain/", Variant("v", "other", (file,)))
    while len(got) < len(DATA):
        before = len(got)
        try:
            for data in source.read(file, len(got)):
                got += bytes(data)
        except SourceError as error:
            assert "cut" in str(error)
        assert len(got) > before
    source.close()
    assert got == DATA


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SSL_CERT_FILE", "/no/such/file", "SSL_CERT_FILE, SSL_CERT_DIR: the certificates cannot be read"),
        ("SSL_CERT_FILE", "/dev/null", "SSL_CERT_FILE, SSL_CERT_DIR: the certificates cannot be read"),
        ("HTTPS_PROXY", "gopher://host", "HTTPS_PROXY: Unknown scheme for proxy"),
        ("ALL_PROXY", "http://host:none", "ALL_PROXY, HTTP_PROXY, HTTPS_PROXY: "),
    ],
)
def test_an_environment_that_cannot_work_is_a_wrong_use(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=said):
        new_client()
    for ask in (_of_hub, _of_mirror):
        with pytest.raises(DistroError, match=said):
            ask(hub, tmp_path)
