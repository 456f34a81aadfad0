"""A web proxy on loopback: passes requests on, or tunnels with CONNECT, or refuses, or cuts; remembers what it saw."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class FakeProxy:
    """seen: method and target of every request. status: what to refuse with. cut_after: bytes of an answer, then shut.

    wants: the value of Proxy-Authorization without which it answers 407.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.status: int | None = None
        self.cut_after: int | None = None
        self.wants: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"

    @contextmanager
    def running(self) -> Iterator[FakeProxy]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _handler(proxy: FakeProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _refused(self) -> bool:
            proxy.seen.append(f"{self.command} {self.path}")
            status = proxy.status
            if proxy.wants is not None and self.headers.get("proxy-authorization") != proxy.wants:
                status = 407
            if status is not None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()
            return status is not None

        def do_GET(self) -> None:
            if self._refused():
                return
            self.close_connection = True
            address = urlsplit(self.path)
            connection = HTTPConnection(address.netloc, timeout=10)
            path = address.path + (f"?{address.query}" if address.query else "")
            headers = {name: value for name, value in self.headers.items() if name.lower() != "proxy-authorization"}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            sent = 0
            with suppress(ConnectionError):
                while data := answer.read(16 * 1024):
                    room = None if proxy.cut_after is None else proxy.cut_after - sent
                    self.wfile.write(data[:room])
                    sent += len(data)
                    if room is not None and len(data) >= room:
                        break
            connection.close()

        do_HEAD = do_GET

        def do_CONNECT(self) -> None:
            if self._refused():
                return
            self.close_connection = True
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as there:
                self.send_response(200)
                self.end_headers()
                pair = {self.connection: there, there: self.connection}
                while True:
                    ready, _, _ = select.select(list(pair), [], [], 10)
                    for end in ready:
                        try:
                            data = end.recv(64 * 1024)
                        except OSError:
                            return
                        if not data:
                            return
                        pair[end].sendall(data)
                    if not ready:
                        return

    return Handler
