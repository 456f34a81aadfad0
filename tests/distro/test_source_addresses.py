"""Which address of a host is asked: the first that answers, at once, and the same one afterwards."""

from __future__ import annotations

import functools
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from distro.config import Settings
from distro.errors import SourceError
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent
from distro.sources import addresses
from distro.sources.addresses import quickest
from distro.sources.http import HttpReader
from tests.fakes.certificates import make_authority
from tests.fakes.hub import FakeHub, serving, sha256
from tests.fakes.proxy import FakeProxy

DATA = random.Random(4).randbytes(3000)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    addresses._winners.clear()
    yield
    addresses._winners.clear()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain["x"] = DATA
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=0)


@contextmanager
def black_hole(host: str = "127.0.0.2") -> Iterator[int]:
    """A port of which nobody hears anything: what waits there to be taken is full, so Linux drops all that comes."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listening.bind((host, 0))
        listening.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket(listening.family))
            filling.setblocking(False)
            with suppress(BlockingIOError):
                filling.connect(listening.getsockname())
        time.sleep(0.05)
        yield listening.getsockname()[1]


class Names:
    """What `getaddrinfo` says. asked: the names, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[tuple[str, int]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.known:
            return self._real(host, port, *arguments, **options)
        found = []
        for address, its_port in self.known[host]:
            found += self._real(address, its_port or port, type=socket.SOCK_STREAM)
        return found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def _read(settings: Settings, url: str) -> bytes:
    reader = HttpReader(settings, "a source")
    try:
        return b"".join(map(bytes, reader.stream(url, 0, len(DATA))))
    finally:
        reader.close()


def _port(hub: FakeHub) -> int:
    return int(hub.url.rpartition(":")[2])


def test_an_address_that_leads_nowhere_costs_a_moment_and_only_once(
    hub: FakeHub, settings: Settings, names: Names
) -> None:
    url = f"http://two.example:{_port(hub)}/plain/x"
    with black_hole() as hole:
        names.known["two.example"] = [("127.0.0.2", hole), ("127.0.0.1", 0)]
        began = time.monotonic()
        assert _read(settings, url) == DATA
        first_s, began = time.monotonic() - began, time.monotonic()
        assert _read(settings, url) == DATA
        second_s = time.monotonic() - began
    assert 0.2 < first_s < 2.0  # 0.3 s on a quiet machine; the time-out for a connection is 5 s
    assert second_s < 1.0
    assert names.asked.count("two.example") == 1


def test_one_that_is_refused_costs_nothing(hub: FakeHub, settings: Settings, names: Names) -> None:
    names.known["two.example"] = [("::1", 1), ("127.0.0.2", 1), ("127.0.0.1", 0)]
    began = time.monotonic()
    assert quickest("two.example", _port(hub), 5.0) == "127.0.0.1"
    assert time.monotonic() - began < 0.2
    assert _read(settings, f"http://two.example:{_port(hub)}/plain/x") == DATA


def test_one_to_which_there_is_no_way_costs_nothing(hub: FakeHub, settings: Settings, names: Names) -> None:
    names.known["two.example"] = [("ff02::1", 80), ("255.255.255.255", 80), ("127.0.0.1", 0)]
    assert _read(settings, f"http://two.example:{_port(hub)}/plain/x") == DATA


def test_families_take_turns(names: Names) -> None:
    """With two black holes of one family before it, the other one is the second to be asked."""
    with (
        black_hole() as hole,
        black_hole("127.0.0.3") as other,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
    ):
        names.known["host"] = [("127.0.0.2", hole), ("127.0.0.3", other), ("::1", server.getsockname()[1])]
        began = time.monotonic()
        assert quickest("host", 80, 5.0) == "::1"
        assert time.monotonic() - began < 0.45


def test_who_won_is_asked_no_more_when_it_has_gone(hub: FakeHub, settings: Settings, names: Names) -> None:
    port = _port(hub)
    names.known["host"] = [("127.0.0.1", 0)]
    addresses._winners["host", port] = "127.0.0.3", time.monotonic() + 60  # nobody listens there
    assert _read(settings, f"http://host:{port}/plain/x") == DATA
    assert addresses._winners["host", port][0] == "127.0.0.1"


def test_what_is_known_is_forgotten_after_a_while(names: Names, hub: FakeHub, settings: Settings) -> None:
    port = _port(hub)
    names.known["host"] = [("127.0.0.1", 0)]
    addresses._winners["host", port] = "127.0.0.3", time.monotonic() - 1
    assert _read(settings, f"http://host:{port}/plain/x") == DATA
    assert names.asked.count("host") == 1


def test_where_none_answers_the_time_out_is_that_of_one(names: Names) -> None:
    with black_hole() as hole:
        names.known["host"] = [("127.0.0.2", hole), ("127.0.0.3", 1)]
        began = time.monotonic()
        with pytest.raises(httpcore2.ConnectTimeout):
            quickest("host", 80, 0.6)
        assert 0.5 < time.monotonic() - began < 1.5


def test_where_all_are_refused_the_reason_is_told(settings: Settings, names: Names) -> None:
    names.known["host"] = [("127.0.0.2", 1), ("127.0.0.3", 1)]
    began = time.monotonic()
    with pytest.raises(SourceError, match="Connection refused") as caught:
        _read(settings, "http://host:1/x")
    assert caught.value.unreachable
    assert time.monotonic() - began < 1.0


def test_a_name_that_nobody_knows_is_away(settings: Settings) -> None:
    with pytest.raises(SourceError) as caught:
        _read(settings, "http://nobody.invalid/x")
    assert caught.value.unreachable


def test_tls_is_for_the_name_and_not_for_the_address(
    tmp_path: Path, settings: Settings, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with serving(authority.server) as hub, black_hole() as hole:
        hub.plain["x"] = DATA
        names.known["localhost"] = [("127.0.0.2", hole), ("127.0.0.1", 0)]
        assert _read(settings, f"https://localhost:{_port(hub)}/plain/x") == DATA
        assert quickest("localhost", _port(hub), 5.0) == "127.0.0.1"


def test_the_addresses_of_a_proxy_race_too(
    hub: FakeHub, settings: Settings, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeProxy().running() as proxy, black_hole() as hole:
        port = int(proxy.address.rpartition(":")[2])
        names.known["proxy.example"] = [("127.0.0.2", hole), ("127.0.0.1", 0)]
        monkeypatch.setenv("HTTP_PROXY", f"http://proxy.example:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        began = time.monotonic()
        assert _read(settings, f"{hub.url}/plain/x") == DATA
        assert time.monotonic() - began < 3.0
        assert len(proxy.seen) == 1


@pytest.fixture
def port_of_ipv6(tmp_path: Path) -> Iterator[int]:
    """Of a server that listens on [::1] alone."""
    (tmp_path / "served" / "folder").mkdir(parents=True)
    (tmp_path / "served" / "folder" / "x").write_bytes(DATA)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = Server(("::1", 0), functools.partial(Handler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("host", ["[::1]", "[::1%251]", "[::1%1]"])
def test_a_server_of_ipv6_alone(settings: Settings, host: str, port_of_ipv6: int) -> None:
    assert _read(settings, f"http://{host}:{port_of_ipv6}/folder/x") == DATA


@pytest.mark.parametrize("zone", ["%25lo", "%lo"])
def test_the_zone_of_an_address_is_kept(zone: str) -> None:
    """By its name or, where the system knows it so, by its number."""
    assert quickest(f"fe80::1{zone}", 80, 5.0) == "fe80::1%lo"


def test_a_mirror_of_ipv6_alone(settings: Settings, port_of_ipv6: int) -> None:
    variant = Variant("v", "gguf", (File("x", len(DATA), sha256=sha256(DATA)),))
    asking = replace(settings, mirrors=(f"http://[::1]:{port_of_ipv6}/folder/",))
    assert fetch(asking, Model("m", 0, "", "v", (variant,)), variant, progress=Silent()).read_bytes() == DATA
