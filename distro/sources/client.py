"""The HTTP client of all sources: proxies and certificates as the environment names them, and its errors as ours.

    HTTP_PROXY HTTPS_PROXY ALL_PROXY    http://[user:password@]host:port, by the scheme of what is asked for
    NO_PROXY                            hosts that are asked without one, with commas between them
    SSL_CERT_FILE SSL_CERT_DIR          whom to trust instead of the system's authorities

httpx2 and huggingface_hub read them by themselves; here is said what is wrong with them.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from converters.errors import shown
from distro.errors import NotPermittedError, ProtocolError, SourceError, UsageError

if TYPE_CHECKING:
    import httpx2

NO_END = "the head of its answer does not end"
PROXY_WANTS_PASSWORD = "the proxy{} wants a name and a password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"  # noqa: S105


def new_client(**options: Any) -> httpx2.Client:
    """A client with our name. options: as httpx2.Client takes them. Raises UsageError for a wrong environment."""
    import httpx2

    from distro.sources.addresses import race
    from distro.sources.deadline import watch

    try:
        client = httpx2.Client(headers={"user-agent": "weights-distro"}, **options)
    except ImportError as error:
        raise UsageError("ALL_PROXY, HTTP_PROXY, HTTPS_PROXY: a SOCKS proxy needs the package socksio") from error
    except (ValueError, httpx2.InvalidURL) as error:
        raise UsageError(f"ALL_PROXY, HTTP_PROXY, HTTPS_PROXY: {shown(str(error))}") from error
    except OSError as error:  # of ssl too
        why = shown(error.strerror or str(error))
        raise UsageError(f"SSL_CERT_FILE, SSL_CERT_DIR: the certificates cannot be read ({why})") from error
    race(client)
    watch(client)
    return client


@functools.cache
def check_environment() -> None:
    """Raise UsageError for what would make every client fail: for those that others make."""
    new_client().close()


@contextmanager
def told(name: str, timeout_s: float) -> Iterator[None]:
    """Errors of the HTTP client as ours. name: of the source."""
    import httpx2

    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise SourceError(name, f"no connection could be made{_way(error)}", unreachable=True) from error
    except httpx2.TimeoutException as error:
        raise SourceError(name, NO_END if str(error) == NO_END else f"silent for {timeout_s:.0f} s") from error
    except httpx2.RemoteProtocolError as error:
        if "disconnected" in str(error) or "closed connection" in str(error):
            raise SourceError(name, "the connection was cut") from error
        raise ProtocolError(name, f"breaks HTTP: {shown(str(error))}") from error
    except httpx2.ProxyError as error:
        if str(error).startswith("407"):
            raise NotPermittedError(name, PROXY_WANTS_PASSWORD.format(_proxy(error))) from error
        raise SourceError(name, f"the proxy{_proxy(error)} refuses: {shown(str(error))}", unreachable=True) from error
    except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise ProtocolError(name, shown(str(error))) from error
    except httpx2.TransportError as error:
        if certificate := _certificate_error(error):
            clock = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z")
            why = f"certificate not accepted: {certificate.verify_message} (the clock here says {clock})"
            raise ProtocolError(name, why) from error
        why = shown(str(error) or type(error).__name__)
        is_connecting = isinstance(error, httpx2.ConnectError)
        way = _way(error) if is_connecting else ""
        raise SourceError(name, f"{why}{way}", unreachable=is_connecting) from error
    except UnicodeDecodeError:  # of a body
        raise
    except UnicodeError as error:  # what IDNA says of a host's name, or of how long its parts are
        raise ProtocolError(name, f"the name of a host cannot be: {shown(str(error))}") from error
    except (httpx2.InvalidURL, httpx2.DecodingError) as error:
        raise ProtocolError(name, shown(str(error))) from error


def _way(error: httpx2.RequestError) -> str:
    """By which proxy, if any."""
    proxy = _proxy(error)
    return f", by way of the proxy{proxy} (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)" if proxy else ""


def _proxy(error: httpx2.RequestError) -> str:
    """` http://host:port` of the proxy that was on the way, without what is secret; empty where there was none."""
    import httpx2

    try:
        url = error.request.url
    except RuntimeError:  # it failed before there was a request
        return ""
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or proxy_bypass(url.host):
        return ""
    proxy = httpx2.URL(address if "://" in address else f"http://{address}")
    return f" {shown(str(proxy.copy_with(username=None, password=None, path='/', query=None)).rstrip('/'))}"


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
