"""Files over HTTP: one ranged, streaming reader for every source that speaks it, and the source `https://…` itself.

    GET <url>                    200  the whole file; what we have already is skipped
    Range: bytes=<n>-            206  Content-Range: bytes <n>-<last>/<size>, or it is not believed
    Range: bytes=<n>-<last>      the same for a part alone (`part`)
    Accept-Encoding: identity    any other Content-Encoding is refused
    301 302 303 307 308          followed by us: at most 5, http and https only, never from https to http
    Authorization                to the first origin (scheme, host, port) and no other

A source `https://host/folder/` has the file below that folder; one that does not end in `/` is the only file itself.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from converters.errors import shown
from distro.config import Settings
from distro.errors import NotPermittedError, NotThereError, ProtocolError, SourceError, UsageError
from distro.manifest import File, Variant
from distro.sources.base import StreamSource

if TYPE_CHECKING:
    import httpx2

_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_SLOWEST = 1024  # bytes per second over a whole time-out: less is a stalled connection
_LONGEST_WAIT_S = 300.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)
_MOST_SKIPPED = 16 * 2**20  # bytes that come unasked where a server knows no ranges


@dataclass(frozen=True)
class Part:
    """Some bytes of a file. data: from where they were asked for, fewer where the answer ends early or the file does.

    size: bytes of the whole file. version: what the server calls this state of it (ETag, else Last-Modified), empty
    where it does not say.
    """

    data: bytes
    size: int
    version: str


class HttpReader:
    """Reads files of one source. name: for messages, without secrets. token: a bearer token for `origin` alone."""

    def __init__(self, settings: Settings, name: str, *, token: str | None = None, origin: str = "") -> None:
        import httpx2

        if settings.offline:
            raise SourceError(name, "offline (--offline or HF_HUB_OFFLINE is set)")
        self.name, self._token, self._timeout_s = name, token, settings.timeout_s
        with self._told():
            self._trusted = _origin(httpx2.URL(origin)) if origin else None
        # Proxies and certificate files of the environment are honoured: httpx2 does that by default.
        self._client = httpx2.Client(timeout=settings.timeout_s, headers={"user-agent": "weights-distro"})

    def stream(self, url: str, offset: int, size: int | None) -> Iterator[bytes]:
        """The bytes of a file from an offset. size: bytes of the whole file where it is known.

        May end early where the server sends a shorter range than was asked for. Raises SourceError and its children,
        in whose messages there is no query and no token.
        """
        if offset == size:
            return
        with self._told():
            yield from self._ranged(url, offset, size)

    def part(self, url: str, start: int, stop: int) -> Part:
        """The bytes from start to stop and no more. Raises SourceError and its children, as `stream` does."""
        with self._told():
            response = self._get(url, {"range": f"bytes={start}-{stop - 1}"})
            try:
                return self._part(response, start, stop)
            finally:
                response.close()

    def close(self) -> None:
        self._client.close()

    def _part(self, response: httpx2.Response, start: int, stop: int) -> Part:
        headers, where = response.headers, shown(_plain(response.url))
        version: str = headers.get("etag") or headers.get("last-modified") or ""
        said = headers.get("content-range", "").strip()
        if response.status_code == 200:
            return self._part_of_all(response, start, stop, version)
        if response.status_code == 416:
            match = _UNSATISFIED.fullmatch(said)
            if match is None or int(match[1]) > start:
                raise ProtocolError(self.name, f"has nothing at byte {start} of {where}")
            return Part(b"", int(match[1]), version)
        match = _CONTENT_RANGE.fullmatch(said)
        if match is None or not self._is_range(response, start, None) or int(match[2]) >= stop:
            asked = f"bytes {start} to {stop - 1} of {where}"
            raise ProtocolError(self.name, f"was asked for {asked} and sends {shown(said) or 'no range'}")
        n_bytes = int(match[2]) + 1 - start
        data = b"".join(self._body(response, 0, n_bytes))
        if len(data) < n_bytes:
            raise SourceError(self.name, f"ended after {len(data)} of {n_bytes} bytes")
        return Part(data, int(match[3]), version)

    def _part_of_all(self, response: httpx2.Response, start: int, stop: int, version: str) -> Part:
        """A server that knows no ranges begins to send the whole file: taken near its beginning, refused far in."""
        length = response.headers.get("content-length", "")
        if stop > _MOST_SKIPPED or not re.fullmatch(r"\d{1,19}", length, re.ASCII):
            raise ProtocolError(self.name, f"sends no part of {shown(_plain(response.url))}, only all of it")
        size, data = int(length), bytearray()
        for piece in self._body(response, 0, size):
            data += piece
            if len(data) >= stop:
                break
        if len(data) < min(stop, size):
            raise SourceError(self.name, f"ended after {len(data)} of {size} bytes")
        return Part(bytes(data[start:stop]), size, version)

    def _ranged(self, url: str, offset: int, size: int | None) -> Iterator[bytes]:
        response = self._get(url, {"range": f"bytes={offset}-"})
        try:
            if response.status_code == 206 and not self._is_range(response, offset, size):
                response.close()
                response = self._get(url, {})  # it cannot do ranges; then the whole file, and we skip
            if response.status_code == 416:
                self._judge_unsatisfied(response, offset, size)
                return
            if response.status_code == 206:
                yield from self._body(response, offset, size)
            else:
                self._judge_length(response, 0, size)
                yield from _skip(self._body(response, 0, size), offset)
        finally:
            response.close()

    def _get(self, url: str, headers: dict[str, str]) -> httpx2.Response:
        """The answer at the end of all redirects, its body not read yet: 200, 206 or 416."""
        import httpx2

        first = here = httpx2.URL(url)
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._client.send(self._request(here, headers), stream=True)
            self._client.cookies.clear()  # a jar knows hosts, not origins
            if response.status_code not in _REDIRECTS:
                break
            response.close()
            here = self._redirected(first, here, response.headers.get("location", ""))
        else:
            raise ProtocolError(self.name, f"more than {_MOST_REDIRECTS} redirects")
        try:
            self._judge_status(response)
        except SourceError:
            response.close()
            raise
        return response

    def _request(self, url: httpx2.URL, headers: dict[str, str]) -> httpx2.Request:
        request = self._client.build_request("GET", url, headers={**headers, "accept-encoding": "identity"})
        if self._token and _origin(url) == self._trusted:
            request.headers["authorization"] = f"Bearer {self._token}"
        return request

    def _redirected(self, first: httpx2.URL, here: httpx2.URL, location: str) -> httpx2.URL:
        there = here.join(location)
        if not location or not there.host or there.scheme not in ("http", "https"):
            raise ProtocolError(self.name, f"redirects to {shown(_plain(there))}, which is no http or https address")
        if here.scheme == "https" and there.scheme == "http":
            raise ProtocolError(self.name, f"redirects from https to {shown(_plain(there))}")
        if _is_inside(there.host) and not _is_inside(first.host):
            raise ProtocolError(self.name, f"redirects into our own network, to {shown(_plain(there))}")
        return there

    def _judge_status(self, response: httpx2.Response) -> None:
        code, url = response.status_code, shown(_plain(response.url))
        if code in (200, 206, 416):
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "") and code != 416:
                raise ProtocolError(self.name, f"sends {shown(encoding)} where identity was asked, for {url}")
            return
        why = f"HTTP {code} for {url}"
        if said := response.headers.get("x-error-message"):
            why += f" ({shown(said)})"
        if code in (401, 402, 403, 407, 451):
            raise NotPermittedError(self.name, why)
        if code in (404, 410):
            raise NotThereError(self.name, why)
        if code in _BUSY:
            raise SourceError(self.name, why, retry_after_s=_retry_after(response.headers))
        raise ProtocolError(self.name, why)

    def _is_range(self, response: httpx2.Response, offset: int, size: int | None) -> bool:
        """Whether a 206 is exactly what was asked for; an answer that ends early is, and is then asked to go on."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if match is None:
            return False
        first, last, total = map(int, match.groups())
        if not (first == offset <= last < total and size in (None, total)):
            return False
        length = response.headers.get("content-length")
        return length is None or length == str(last - first + 1)

    def _judge_length(self, response: httpx2.Response, offset: int, size: int | None) -> None:
        length = response.headers.get("content-length", "")
        if size is None or not length or length == str(size - offset):
            return
        raise ProtocolError(self.name, f"has {shown(length)} bytes of {shown(_plain(response.url))}, not {size}")

    def _judge_unsatisfied(self, response: httpx2.Response, offset: int, size: int | None) -> None:
        """416: fine only where the size was not known and turns out to be what we have."""
        total = response.headers.get("content-range", "").strip()
        if size is None and total == f"bytes */{offset}":
            return
        raise ProtocolError(self.name, f"has nothing at byte {offset} of {shown(_plain(response.url))}")

    def _body(self, response: httpx2.Response, offset: int, size: int | None) -> Iterator[bytes]:
        """The body, never more than the file has, and never slower than a connection that is alive."""
        room = None if size is None else size - offset
        began, n_bytes = time.monotonic(), 0
        for data in response.iter_raw():
            if room is not None:
                if len(data) > room:
                    raise ProtocolError(self.name, f"sends more than the {size} bytes of {_plain(response.url)}")
                room -= len(data)
            yield data
            n_bytes += len(data)
            if (now := time.monotonic()) - began > self._timeout_s:
                if n_bytes < _SLOWEST * self._timeout_s:
                    raise SourceError(self.name, f"only {n_bytes} bytes in {now - began:.0f} s")
                began, n_bytes = now, 0

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the HTTP client as ours."""
        import httpx2

        try:
            yield
        except httpx2.TimeoutException as error:
            raise SourceError(self.name, f"silent for {self._timeout_s:.0f} s") from error
        except httpx2.RemoteProtocolError as error:
            if "disconnected" in str(error) or "closed connection" in str(error):
                raise SourceError(self.name, "the connection was cut") from error
            raise ProtocolError(self.name, f"breaks HTTP: {shown(str(error))}") from error
        except httpx2.TransportError as error:
            if certificate := _certificate_error(error):
                clock = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
                why = f"certificate not accepted: {certificate.verify_message} (the clock here says {clock})"
                raise ProtocolError(self.name, why) from error
            raise SourceError(self.name, shown(str(error) or type(error).__name__)) from error
        except (httpx2.InvalidURL, httpx2.DecodingError) as error:
            raise ProtocolError(self.name, shown(str(error))) from error


class HttpSource(StreamSource):
    """A source `https://…` of a manifest."""

    def __init__(self, settings: Settings, reference: str, variant: Variant) -> None:
        if not reference.endswith("/") and len(variant.files) != 1:
            raise UsageError(f"{reference}: one address for {len(variant.files)} files; a folder ends in /")
        self._address = reference
        self.name = shown(reference.partition("?")[0].replace(_user_of(reference), ""))
        self._reader = HttpReader(settings, self.name)

    def read(self, file: File, offset: int) -> Iterator[bytes]:
        return self._reader.stream(self._url(file), offset, file.size)

    def read_part(self, file: File, start: int, stop: int) -> Part:
        return self._reader.part(self._url(file), start, stop)

    def _url(self, file: File) -> str:
        return self._address + quote(file.path) if self._address.endswith("/") else self._address

    def close(self) -> None:
        self._reader.close()


def _skip(pieces: Iterator[bytes], n_bytes: int) -> Iterator[bytes]:
    for piece in pieces:
        if n_bytes < len(piece):
            yield piece[n_bytes:]
        n_bytes = max(0, n_bytes - len(piece))


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _plain(url: httpx2.URL) -> str:
    """An address as it may be shown: no user, no query, where secrets are."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def _user_of(address: str) -> str:
    """`user:password@` of an address, or nothing."""
    match = re.match(r"[a-z]+://([^/@]*@)", address)
    return match[1] if match else ""


def _is_inside(host: str) -> bool:
    """Whether an address is this machine's or of a private network; names other than localhost are not looked up."""
    try:
        return not ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_global
    except ValueError:
        return host.rstrip(".").lower().rpartition(".")[2] == "localhost"


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that an answer asks us to wait, 300 at most: `Retry-After`, or the hub's `RateLimit: …;t=<seconds>`."""
    value = headers.get("retry-after", "").strip()
    if match := re.search(r";\s*t=(\d{1,6})", headers.get("ratelimit", "")):
        value = value or match[1]
    if re.fullmatch(r"\d{1,20}", value, re.ASCII):
        return min(float(value), _LONGEST_WAIT_S)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), _LONGEST_WAIT_S)


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
