"""A hub on loopback that answers as the real one to huggingface_hub and to us, with faults as switches.

    GET  /api/models/<repo>[/revision/<rev>]        what a revision is
    GET  /api/models/<repo>/tree/<rev>              files with size, git id, LFS digest; in pages
    GET  /api/models/<repo>/refs                    branches
    HEAD /<repo>/resolve/<rev>/<path>               X-Repo-Commit, ETag, X-Linked-*
    GET  the same                                   bytes, with Range
    GET  /plain/<path>                              a mirror or CDN: bytes alone
    GET  /signed/<n>/<path>                         the same, `signed_uses` times, then 403; `signs` sends there by 302

Every request is recorded with its headers and the bytes that were sent for it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 1000  # bytes; smaller files are kept in git itself


class LargeFile:
    """A file of any size that takes no room: its first bytes as given, and after them a stream that a key makes."""

    def __init__(self, head: bytes, size: int, key: bytes = b"") -> None:
        self.head, self.size, self.key = head, size, key

    def __len__(self) -> int:
        return self.size

    def part(self, start: int, stop: int) -> LargeFile:
        """Bytes of it as they would be sent, made when they are."""
        return _Part(self, start, stop)

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        data = bytearray(self.head[start:stop])
        while start + len(data) < stop:
            at = start + len(data)
            block = hashlib.sha256(self.key + (at // 32).to_bytes(8, "little")).digest()
            data += block[at % 32 : at % 32 + stop - at]
        return bytes(data)


class _Part(LargeFile):
    def __init__(self, whole: LargeFile, start: int, stop: int) -> None:
        super().__init__(b"", stop - start)
        self._whole, self._start = whole, start

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        return self._whole[self._start + start : self._start + stop]


def git_sha1(data: bytes | LargeFile) -> str:
    if isinstance(data, LargeFile):  # nobody can hash it all
        data = data.head
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def sha256(data: bytes | LargeFile) -> str:
    if isinstance(data, LargeFile):
        data = data.head
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repo:
    """files: by path. gated: only for `token`. hidden: paths that the listing has and that are not there."""

    name: str
    files: dict[str, bytes | LargeFile]
    gated: bool = False
    token: str = "hf_right"
    hidden: frozenset[str] = frozenset()
    listed: list[dict[str, Any]] = field(default_factory=list)  # further entries of the tree, as they are

    @property
    def commit(self) -> str:
        content = "".join(f"{path}:{sha256(data)}" for path, data in sorted(self.files.items()))
        return hashlib.sha1((self.name + content).encode(), usedforsecurity=False).hexdigest()

    def tree(self) -> list[dict[str, Any]]:
        folders = {path.rpartition("/")[0] for path in self.files if "/" in path}
        entries: list[dict[str, Any]] = [
            {
                "type": "directory",
                "path": path,
                "size": 0,
                "oid": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
            }
            for path in sorted(folders)
        ]
        for path, data in sorted(self.files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if len(data) >= LFS_FROM:
                pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
                text = pointer % (sha256(data).encode(), len(data))
                entry["oid"] = git_sha1(text)
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(text)}
            entries.append(entry)
        return entries + self.listed


@dataclass
class Fault:
    """What goes wrong with the next `times` transfers of bytes (GET of a file), of paths that hold `path`."""

    times: int = 1_000_000
    path: str = ""
    cut_after: int | None = None  # bytes; then the connection is closed
    delay_s: float = 0.0  # before the answer begins
    flip_at: int | None = None  # offset in the file of the bit that is wrong
    rate: int | None = None  # bytes per second
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)  # added, or put in the place of ours
    redirect: str | None = None  # 302 to there
    gzip: bool = False
    ignore_range: bool = False
    shift_range: int = 0  # the bytes begin so much later than the answer says is asked
    stall_after: int | None = None  # bytes; then nothing comes any more, and the connection stays
    body: bytes | None = None  # instead of the file


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    n_sent: int = 0


class FakeHub:
    """repos and plain files that are served; requests that came."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0, host: str = "127.0.0.1") -> None:
        self.repos: dict[str, Repo] = {}
        self.plain: dict[str, bytes | LargeFile] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.page = 1000
        self.signs = False  # every request for a plain file is sent to a signed address
        self.signed_uses = 1  # requests that one signed address answers
        self.most_at_once: int | None = None  # transfers of bytes; one more gets 429
        self.send_buffer: int | None = None  # bytes that the system takes before the client has them
        self.stopped = threading.Event()
        self._is_cut = False
        self._n_signed = 0
        self._n_active = 0
        self._uses: dict[int, int] = {}
        self.on_sent: Callable[[int], None] = lambda n_bytes: None  # after each piece, with the total of a transfer
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def add(self, name: str, files: dict[str, bytes | LargeFile], **options: Any) -> Repo:
        repo = self.repos[name] = Repo(name, files, **options)
        return repo

    def transfers(self) -> list[Request]:
        """Requests for the bytes of files."""
        return [
            each
            for each in self.requests
            if each.method == "GET" and any(part in each.path for part in ("/resolve/", "/plain/", "/signed/"))
        ]

    def n_sent(self) -> int:
        """Bytes of files that were sent."""
        return sum(each.n_sent for each in self.transfers())

    def sign(self, path: str) -> str:
        """A new address of a plain file."""
        with self._lock:
            self._n_signed += 1
            self._uses[self._n_signed] = self.signed_uses
            return f"{self.url}/signed/{self._n_signed}/{path}"

    def use(self, number: int) -> bool:
        """Whether a signed address is still good, for this once."""
        with self._lock:
            self._uses[number] = self._uses.get(number, 0) - 1
            return self._uses[number] >= 0

    @contextmanager
    def counted(self) -> Iterator[bool]:
        """One transfer of bytes; whether that is too many at once."""
        with self._lock:
            self._n_active += 1
            is_too_many = self.most_at_once is not None and self._n_active > self.most_at_once
        try:
            yield is_too_many
        finally:
            with self._lock:
                self._n_active -= 1

    def take_fault(self, path: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path:
                    fault.times -= 1
                    return fault
        return Fault()

    def start(self) -> None:
        self._thread.start()

    def cut(self) -> None:
        """Be gone: no connection is taken any more, and those that are open end."""
        self._is_cut = True
        self.stop()

    def stop(self) -> None:
        if self.stopped.is_set():
            return
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[FakeHub]:
    hub = FakeHub(tls, host=host)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError, ssl.SSLError):  # killed, cut by us, or it mistrusts us
                self.close_connection = True

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._request = Request(self.command, self.path, headers)
            hub.requests.append(self._request)
            address = urlsplit(self.path)
            path = unquote(address.path)
            if path.startswith("/signed/"):
                _, _, number, name = path.split("/", 3)
                if not hub.use(int(number)):
                    return self._error(403, "", "the signature has expired")
                return self._file(path, hub.plain[name], {"etag": f'"{sha256(hub.plain[name])}"'})
            if path.startswith("/plain/") and hub.signs:
                address = hub.sign(path.removeprefix("/plain/"))
                return self._send(302, {"location": address, "content-length": "0"}, b"", Fault())
            if path.startswith("/plain/"):
                data = hub.plain.get(path.removeprefix("/plain/"))
                return self._error(404) if data is None else self._file(path, data, {"etag": f'"{sha256(data)}"'})
            is_api = path.startswith("/api/models/")
            parts = path.removeprefix("/api/models/" if is_api else "/").split("/")
            repo = hub.repos.get("/".join(parts[:2]))
            if repo is None:
                return self._error(401 if is_api else 404, "RepoNotFound", "Repository not found")
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", repo.commit):
                return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if is_api:
                return self._api(repo, parts[2:3], parse_qs(address.query))
            if parts[2:3] != ["resolve"]:
                return self._error(404)
            return self._resolve(repo, "/".join(parts[4:]))

        def _api(self, repo: Repo, kind: list[str], query: dict[str, list[str]]) -> None:
            if kind == ["refs"]:
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commit}
                return self._json({"branches": [main], "converts": [], "tags": []})
            if kind == ["tree"]:
                start = int(query.get("cursor", ["0"])[0])
                tree = repo.tree()
                link = {}
                if start + hub.page < len(tree):
                    url = f"{hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + hub.page}"
                    link = {"link": f'<{url}>; rel="next"'}
                return self._json(tree[start : start + hub.page], link)
            siblings = [{"rfilename": path} for path in sorted(repo.files)]
            return self._json({
                "_id": "1", "id": repo.name, "modelId": repo.name, "sha": repo.commit, "private": False,
                "gated": "manual" if repo.gated else False, "disabled": False, "downloads": 0, "likes": 0,
                "tags": ["safetensors"], "siblings": siblings, "config": {"model_type": "llama"},
            })  # fmt: skip

        def _resolve(self, repo: Repo, path: str) -> None:
            if repo.gated and self._request.headers.get("authorization") != f"Bearer {repo.token}":
                has_token = "authorization" in self._request.headers
                return self._error(403 if has_token else 401, "GatedRepo", f"Access to model {repo.name} is restricted")
            data = repo.files.get(path)
            commit = {"x-repo-commit": repo.commit}
            if data is None or path in repo.hidden:
                return self._error(404, "EntryNotFound", "Entry not found", commit)
            etag = sha256(data) if len(data) >= LFS_FROM else git_sha1(data)
            linked = {"x-linked-etag": f'"{etag}"', "x-linked-size": str(len(data))} if len(data) >= LFS_FROM else {}
            return self._file(self.path, data, {"etag": f'"{etag}"', **commit, **linked})

        def _file(self, path: str, data: bytes | LargeFile, headers: dict[str, str]) -> None:
            if self.command == "HEAD":
                return self._send(
                    200, {**headers, "accept-ranges": "bytes", "content-length": str(len(data))}, b"", Fault()
                )
            with hub.counted() as is_too_many:
                if is_too_many:
                    return self._send(429, {"content-length": "0"}, b"", Fault())
                return self._bytes(path, data, headers)

        def _bytes(self, path: str, data: bytes | LargeFile, headers: dict[str, str]) -> None:
            fault = hub.take_fault(path)
            hub.stopped.wait(fault.delay_s)
            if fault.redirect is not None:
                return self._send(302, {**headers, "location": fault.redirect, "content-length": "0"}, b"", Fault())
            if fault.status is not None:
                return self._send(fault.status, {"content-length": "4", **fault.headers}, b"busy", Fault())
            data = data if fault.body is None else fault.body
            if fault.flip_at is not None:
                data = data[: fault.flip_at] + bytes([data[fault.flip_at] ^ 1]) + data[fault.flip_at + 1 :]
            status, start, stop = 200, 0, len(data)
            asked = self._request.headers.get("range", "")
            if asked.startswith("bytes=") and not fault.ignore_range:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start = int(first) + fault.shift_range
                stop = min(stop, int(last) + 1) if last else stop
                if start >= len(data):
                    return self._send(
                        416, {"content-range": f"bytes */{len(data)}", "content-length": "0"}, b"", Fault()
                    )
                status = 206
                headers = {**headers, "content-range": f"bytes {start}-{stop - 1}/{len(data)}"}
            body = data.part(start, stop) if isinstance(data, LargeFile) else data[start:stop]
            if fault.gzip:
                body = gzip.compress(bytes(body[:]))
                headers = {**headers, "content-encoding": "gzip"}
            headers = {**headers, "accept-ranges": "bytes", "content-length": str(len(body)), **fault.headers}
            return self._send(status, headers, body, fault)

        def _send(self, status: int, headers: dict[str, str], body: bytes | LargeFile, fault: Fault) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if hub.send_buffer is not None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, hub.send_buffer)
            step = 64 * 1024 if fault.rate is None else max(1, fault.rate // 20)
            ends = (end for end in (fault.cut_after, fault.stall_after) if end is not None)
            end = min(len(body), *ends, len(body))
            for start in range(0, end, step):
                if hub._is_cut:
                    raise ConnectionError
                piece = body[start : min(end, start + step)]
                self._request.n_sent += len(piece)  # before, so that whoever has the bytes finds them counted
                self.wfile.write(piece)
                hub.on_sent(self._request.n_sent)
                if fault.rate is not None:
                    time.sleep(len(piece) / fault.rate)
            if end < len(body):
                self.wfile.flush()
                if fault.stall_after is not None:
                    hub.stopped.wait()
                self.connection.shutdown(socket.SHUT_WR)
                self.close_connection = True

        def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(value).encode()
            kind = {"content-type": "application/json", "content-length": str(len(body))}
            self._send(200, {**kind, **(headers or {})}, body, Fault())

        def _error(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
            body = json.dumps({"error": message or "Not found"}).encode()
            told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
            if code:
                told |= {"x-error-code": code, "x-error-message": message}
            self._send(status, told, body if self.command == "GET" else b"", Fault())

    return Handler
