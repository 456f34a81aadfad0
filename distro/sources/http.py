"""Files over HTTP: one ranged, streaming reader for every source that speaks it, and the source `https://…` itself.

    GET <url>                    200  the whole file; what we have already is skipped
    Range: bytes=<n>-            206  Content-Range: bytes <n>-<last>/<size>, or it is not believed
    Range: bytes=<n>-<last>      the same for a part alone
    Accept-Encoding: identity    any other Content-Encoding is refused
    301 302 303 307 308          followed by us: at most 5, http and https only, never from https to http; where they
                                 led is asked at once next time, until it says anything but 200, 206 or 416
    Authorization                to the first origin (scheme, host, port) and no other

A source `https://host/folder/` has the file below that folder; one that does not end in `/` is the only file itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from converters.errors import shown
from distro.config import Settings
from distro.errors import NotPermittedError, NotThereError, ProtocolError, SourceError, UsageError
from distro.manifest import File, Variant
from distro.sources.base import NoRangesError, StreamSource
from distro.sources.body import read_body, skip
from distro.sources.client import PROXY_WANTS_PASSWORD, new_client, told
from distro.sources.origins import MOST_REDIRECTS, judge_redirect, origin_of, plain

if TYPE_CHECKING:
    import httpx2

_REDIRECTS = {301, 302, 303, 307, 308}
_ANSWERS = {200, 206, 416}
BUSY = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_S = 300.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)
_MOST_SKIPPED = 16 * 2**20  # bytes that come unasked where a server knows no ranges
# All addresses of a host together (distro/sources/addresses.py): two of the system's tries, after 1 s and after 3 s.
CONNECT_S = 5.0


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
        with told(self.name, self._timeout_s):
            self._trusted = origin_of(httpx2.URL(origin)) if origin else None
        timeout = httpx2.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s))
        self._client = new_client(timeout=timeout, limits=httpx2.Limits(max_connections=None))
        self._landed: dict[str, httpx2.URL] = {}  # where redirects led

    def stream(self, url: str, offset: int, size: int | None, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """The bytes of a file from an offset to its end, or to `stop`. size: of the whole file where it is known.

        May end early where the server sends a shorter range than was asked for. Raises SourceError and its children,
        in whose messages there is no query and no token; with `stop` NoRangesError if the server sends another range
        or all of the file.
        """
        if offset == size:
            return
        with told(self.name, self._timeout_s):
            yield from self._ranged(url, offset, size, stop)

    def part(self, url: str, start: int, stop: int) -> Part:
        """The bytes from start to stop and no more. Raises SourceError and its children, as `stream` does."""
        with told(self.name, self._timeout_s):
            response = self._get(url, {"range": f"bytes={start}-{stop - 1}"})
            try:
                return self._part(response, start, stop)
            finally:
                response.close()

    def close(self) -> None:
        self._client.close()

    def _part(self, response: httpx2.Response, start: int, stop: int) -> Part:
        headers, where = response.headers, shown(plain(response.url))
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
        data = b"".join(map(bytes, self._body(response, n_bytes)))
        if len(data) < n_bytes:
            raise SourceError(self.name, f"ended after {len(data)} of {n_bytes} bytes")
        return Part(data, int(match[3]), version)

    def _part_of_all(self, response: httpx2.Response, start: int, stop: int, version: str) -> Part:
        """A server that knows no ranges begins to send the whole file: taken near its beginning, refused far in."""
        length = response.headers.get("content-length", "")
        if stop > _MOST_SKIPPED or not re.fullmatch(r"\d{1,19}", length, re.ASCII):
            raise ProtocolError(self.name, f"sends no part of {shown(plain(response.url))}, only all of it")
        size, data = int(length), bytearray()
        for piece in self._body(response, size):
            data += piece
            if len(data) >= stop:
                break
        if len(data) < min(stop, size):
            raise SourceError(self.name, f"ended after {len(data)} of {size} bytes")
        return Part(bytes(data[start:stop]), size, version)

    def _ranged(self, url: str, offset: int, size: int | None, stop: int | None) -> Iterator[bytes | memoryview]:
        last = "" if stop is None or stop == size else str(stop - 1)
        response = self._get(url, {"range": f"bytes={offset}-{last}"})
        try:
            if response.status_code == 416:
                self._judge_unsatisfied(response, offset, size)
                return
            is_range = response.status_code == 206 and self._is_range(response, offset, size, stop)
            is_all = response.status_code == 200 and offset == 0 and not last
            if not is_range and not is_all and stop is not None:
                raise NoRangesError(self.name, f"does not send the bytes {offset} to {stop - 1} alone")
            if response.status_code == 206 and not is_range:
                response.close()
                response = self._get(url, {})  # it cannot do ranges; then the whole file, and we skip
                if response.status_code != 200:
                    raise ProtocolError(self.name, f"sends no part of {shown(plain(response.url))}, nor all of it")
            if response.status_code == 206:
                yield from self._body(response, None if size is None else size - offset)
            else:
                self._judge_length(response, 0, size)
                yield from skip(self._body(response, size), offset)
        finally:
            response.close()

    def _get(self, url: str, headers: dict[str, str]) -> httpx2.Response:
        """The answer at the end of all redirects, its body not read yet: 200, 206 or 416."""
        import httpx2

        if landed := self._landed.get(url):
            try:
                response = self._client.send(self._request(landed, headers), stream=True)
                self._client.cookies.clear()
                if response.status_code in _ANSWERS or response.status_code in BUSY:
                    return self._judged(response)
                response.close()  # a signed address that has expired, most likely
            except httpx2.TransportError:
                self._landed.pop(url, None)
                raise
            self._landed.pop(url, None)
        return self._follow(url, headers)

    def _follow(self, url: str, headers: dict[str, str]) -> httpx2.Response:
        import httpx2

        first = here = httpx2.URL(url)
        for _ in range(MOST_REDIRECTS + 1):
            response = self._client.send(self._request(here, headers), stream=True)
            self._client.cookies.clear()  # a jar knows hosts, not origins
            if response.status_code not in _REDIRECTS:
                break
            response.close()
            here = self._redirected(first, here, response.headers.get("location", ""))
        else:
            raise ProtocolError(self.name, f"more than {MOST_REDIRECTS} redirects")
        if here != first and response.status_code in _ANSWERS:
            self._landed[url] = here
        return self._judged(response)

    def _judged(self, response: httpx2.Response) -> httpx2.Response:
        try:
            self._judge_status(response)
        except SourceError:
            response.close()
            raise
        return response

    def _request(self, url: httpx2.URL, headers: dict[str, str]) -> httpx2.Request:
        request = self._client.build_request("GET", url, headers={**headers, "accept-encoding": "identity"})
        if self._token and origin_of(url) == self._trusted:
            request.headers["authorization"] = f"Bearer {self._token}"
        return request

    def _redirected(self, first: httpx2.URL, here: httpx2.URL, location: str) -> httpx2.URL:
        there = here.join(location)
        if not location:
            raise ProtocolError(self.name, f"redirects to nowhere, for {shown(plain(here))}")
        judge_redirect(self.name, first, here, there)
        return there

    def _judge_status(self, response: httpx2.Response) -> None:
        code, url = response.status_code, shown(plain(response.url))
        if code in _ANSWERS:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "") and code != 416:
                raise ProtocolError(self.name, f"sends {shown(encoding)} where identity was asked, for {url}")
            return
        why = f"HTTP {code} for {url}"
        if said := response.headers.get("x-error-message"):
            why += f" ({shown(said)})"
        if code == 407:
            raise NotPermittedError(self.name, PROXY_WANTS_PASSWORD.format(""))
        if code in (401, 402, 403, 451):
            raise NotPermittedError(self.name, why)
        if code in (404, 410):
            raise NotThereError(self.name, why)
        if code in BUSY:
            raise SourceError(self.name, why, retry_after_s=retry_after(response.headers))
        raise ProtocolError(self.name, why)

    def _is_range(self, response: httpx2.Response, offset: int, size: int | None, stop: int | None = None) -> bool:
        """Whether a 206 is exactly what was asked for; an answer that ends early is, and is then asked to go on."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if match is None:
            return False
        first, last, total = map(int, match.groups())
        if not (first == offset <= last < total and size in (None, total)) or last >= (total if stop is None else stop):
            return False
        length = response.headers.get("content-length")
        return length is None or length == str(last - first + 1)

    def _judge_length(self, response: httpx2.Response, offset: int, size: int | None) -> None:
        length = response.headers.get("content-length", "")
        if size is None or not length or length == str(size - offset):
            return
        raise ProtocolError(self.name, f"has {shown(length)} bytes of {shown(plain(response.url))}, not {size}")

    def _judge_unsatisfied(self, response: httpx2.Response, offset: int, size: int | None) -> None:
        """416: fine only where the size was not known and turns out to be what we have."""
        total = response.headers.get("content-range", "").strip()
        if size is None and total == f"bytes */{offset}":
            return
        raise ProtocolError(self.name, f"has nothing at byte {offset} of {shown(plain(response.url))}")

    def _body(self, response: httpx2.Response, most: int | None) -> Iterator[bytes | memoryview]:
        return read_body(response, self.name, self._timeout_s, most, shown(plain(response.url)))


class HttpSource(StreamSource):
    """A source `https://…` of a manifest."""

    def __init__(self, settings: Settings, reference: str, variant: Variant) -> None:
        if not reference.endswith("/") and len(variant.files) != 1:
            raise UsageError(f"{reference}: one address for {len(variant.files)} files; a folder ends in /")
        self._address = reference
        self.name = shown(reference.partition("?")[0].replace(_user_of(reference), ""))
        self._reader = HttpReader(settings, self.name)

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes | memoryview]:
        return self._reader.stream(self._url(file), offset, file.size, stop)

    def read_part(self, file: File, start: int, stop: int) -> Part:
        return self._reader.part(self._url(file), start, stop)

    def _url(self, file: File) -> str:
        return self._address + quote(file.path) if self._address.endswith("/") else self._address

    def close(self) -> None:
        self._reader.close()


def _user_of(address: str) -> str:
    """`user:password@` of an address, or nothing."""
    match = re.match(r"[a-z]+://([^/@]*@)", address)
    return match[1] if match else ""


def retry_after(headers: httpx2.Headers) -> float | None:
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
