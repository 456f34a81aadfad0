"""The source `hf:owner/repo@commit`: a repository of the hub.

huggingface_hub asks for names, revisions and tokens; the bytes come through our own reader, from
`<endpoint>/<repo>/resolve/<commit>/<path>`, so that they are proven and can be resumed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from converters.errors import shown
from distro.config import Settings
from distro.errors import (
    MalformedManifestError,
    NotFoundError,
    NotPermittedError,
    ProtocolError,
    SourceError,
)
from distro.manifest import File, Model, Variant
from distro.paths import clashing, safe_relpath
from distro.reference import HubReference
from distro.sources.base import StreamSource
from distro.sources.client import PROXY_WANTS_PASSWORD, check_environment, told
from distro.sources.http import HttpReader, Part
from distro.sources.retry import asked_again
from distro.store import Store

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

T = TypeVar("T")

_MOST_FILES = 100_000
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FORMATS = {
    ".safetensors": "safetensors", ".gguf": "gguf", ".bin": "pytorch", ".pth": "pth", ".pt": "pth", ".tar": "tar",
}  # fmt: skip


def variant_from_hub(settings: Settings, repo: str, revision: str | None = None) -> tuple[Model, Variant]:
    """A model and its one variant, made from the hub's own digests, pinned to a commit.

    Offline, what the store holds of that repository and revision. Raises NotFoundError for a repository or revision
    that is not there, NotPermittedError for one that is gated, SourceError and ProtocolError.
    """
    if settings.offline:
        return _from_store(settings, repo, revision)
    from huggingface_hub.hf_api import RepoFile

    name = f"hub {repo}"
    info, commit = _state(settings, name, repo, revision)

    def listing(api: HfApi) -> list[RepoFile | RepoFolder]:
        return list(islice(api.list_repo_tree(repo, recursive=True, revision=commit), _MOST_FILES + 1))

    listed = _ask(settings, name, repo, commit, listing)
    if len(listed) > _MOST_FILES:
        raise ProtocolError(name, f"lists more than {_MOST_FILES} files")
    files = tuple(_file(name, f"{repo}@{commit}", entry) for entry in listed if isinstance(entry, RepoFile))
    _judge_names(name, files)
    return _model(repo, commit, info, files)


class HubSource(StreamSource):
    """A repository at one commit. Raises SourceError when offline."""

    def __init__(self, settings: Settings, reference: HubReference) -> None:
        self._settings, self._repo = settings, reference.repo
        self._commit = reference.revision if reference.is_pinned else None
        self._revision = reference.revision
        self.name = f"hub {reference.repo}" + (f"@{reference.revision[:7]}" if reference.revision else "")
        endpoint = settings.hub_endpoint
        self._reader = HttpReader(settings, self.name, token=_token(settings), origin=endpoint)

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes | memoryview]:
        with self._explained():
            yield from self._reader.stream(self._url(file), offset, file.size, stop)

    def read_part(self, file: File, start: int, stop: int) -> Part:
        with self._explained():
            return self._reader.part(self._url(file), start, stop)

    def close(self) -> None:
        self._reader.close()

    def _url(self, file: File) -> str:
        return f"{self._settings.hub_endpoint}/{self._repo}/resolve/{self._pinned()}/{quote(file.path)}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Where a token or consent is missing, what to do about it."""
        try:
            yield
        except NotPermittedError as error:
            raise _not_permitted(self._settings, self.name, self._repo, error.why) from error

    def _pinned(self) -> str:
        """The commit; a branch is looked up once, so that all files are of one revision."""
        if self._commit is None:
            _, self._commit = _state(self._settings, self.name, self._repo, self._revision)
        return self._commit


def _state(settings: Settings, name: str, repo: str, revision: str | None) -> tuple[ModelInfo, str]:
    """What the hub says of a repository, and the commit that a revision is now."""
    info = _ask(settings, name, repo, revision, lambda api: api.model_info(repo, revision=revision))
    if not _COMMIT.fullmatch(info.sha or ""):
        raise ProtocolError(name, f"says revision {shown(info.sha)}, which is no commit")
    return info, str(info.sha)


def _ask(settings: Settings, name: str, repo: str, revision: str | None, question: Callable[[HfApi], T]) -> T:
    """An answer of the hub's interface, with its errors as ours; where it is busy, it is asked again."""
    from distro.sources.hub_bounds import BusyError, in_bounds

    def ask() -> T:
        with _told(settings, name, repo, revision):
            api = _api(settings)
            with in_bounds(settings, name):
                return question(api)

    return asked_again(settings, ask, BusyError)


def _api(settings: Settings) -> HfApi:
    from huggingface_hub import HfApi, constants

    # Otherwise it asks the hub for a list of agents to recognise in our environment, and reports the one it finds.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    check_environment()
    return HfApi(endpoint=settings.hub_endpoint, token=settings.hub_token, library_name="weights-distro")


def _token(settings: Settings) -> str | None:
    """The user's token; without one of ours, where huggingface_hub finds it (HF_TOKEN, HF_TOKEN_PATH, `hf auth`)."""
    from huggingface_hub import get_token

    return settings.hub_token or get_token()


def _model(repo: str, commit: str, info: ModelInfo, files: tuple[File, ...]) -> tuple[Model, Variant]:
    weights = getattr(info.safetensors, "total", None)
    config = info.config if isinstance(info.config, dict) else {}
    variant = Variant(
        name=commit[:12],
        format=_format_of(files),
        files=files,
        sources=(f"hf:{repo}@{commit}",),
        gated=bool(info.gated),
    )
    model = Model(
        name=repo,
        parameters=weights if isinstance(weights, int) else 0,
        architecture=str(config.get("model_type", "")),
        default=variant.name,
        variants=(variant,),
    )
    return model, variant


def _file(name: str, origin: str, entry: RepoFile) -> File:
    """One file of a listing, judged. Raises ProtocolError, MalformedManifestError for a path that is not safe."""
    try:
        path = safe_relpath(entry.path)
    except ValueError as error:
        raise MalformedManifestError(
            name, "path", found=f"{error} in {entry.path!r}", allowed="a path below the folder"
        ) from error
    size = entry.lfs.size if entry.lfs else entry.size
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise ProtocolError(name, f"lists {shown(path)} with a size of {shown(size)}")
    if not _COMMIT.fullmatch(str(entry.blob_id)):
        raise ProtocolError(name, f"lists {shown(path)} with a git id of {shown(entry.blob_id)}")
    where = (f"{origin}:{path}",)
    if entry.lfs is None:
        return File(path, size, git_sha1=entry.blob_id, origin=where)
    if not _SHA256.fullmatch(str(entry.lfs.sha256)):
        raise ProtocolError(name, f"lists {shown(path)} with a SHA-256 of {shown(entry.lfs.sha256)}")
    return File(path, size, sha256=entry.lfs.sha256, lfs_pointer_sha1=entry.blob_id, origin=where)


def _judge_names(name: str, files: tuple[File, ...]) -> None:
    """Raise MalformedManifestError for two files that cannot both be stored, on some system."""
    if clash := clashing([file.path for file in files]):
        raise MalformedManifestError(
            name, "path", found=" and ".join(map(shown, clash)), allowed="names that are apart where case is not"
        )


def _format_of(files: tuple[File, ...]) -> str:
    """The format that most of the bytes are in."""
    sizes: Counter[str] = Counter()
    for file in files:
        dot = file.path.rfind(".")
        if dot > 0 and (known := _FORMATS.get(file.path[dot:].lower())):
            sizes[known] += file.size or 0
    return sizes.most_common(1)[0][0] if sizes else "safetensors"


def _from_store(settings: Settings, repo: str, revision: str | None) -> tuple[Model, Variant]:
    store = Store(settings.home)
    for name, variant_name in store.variants():
        receipt = store.receipt(name, variant_name)
        if receipt and name == repo and (revision or variant_name).startswith(variant_name):
            if receipt.missing:
                n_missing = f"{len(receipt.missing)} of its files are not here"
                raise SourceError(f"hub {repo}", f"offline (--offline or HF_HUB_OFFLINE is set), and {n_missing}")
            return receipt.as_variant()
    raise SourceError(f"hub {repo}", "offline (--offline or HF_HUB_OFFLINE is set), and it is not here")


@contextmanager
def _told(settings: Settings, name: str, repo: str, revision: str | None) -> Iterator[None]:
    """Errors of huggingface_hub as ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        with told(name, settings.timeout_s):
            yield
    except errors.GatedRepoError as error:
        raise _not_permitted(settings, name, repo, "the repository is gated") from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{name}: no revision {shown(revision or 'main')}") from error
    except errors.RepositoryNotFoundError as error:
        if error.response.status_code == 404 or _token(settings) is not None:
            raise NotFoundError(f"{name}: no such repository, or one that this token may not see") from error
        raise NotFoundError(f"{name}: no such repository, or a private one that needs a token (HF_TOKEN)") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise _not_permitted(settings, name, repo, f"HTTP {code}") from error
        if code == 407:
            raise NotPermittedError(name, PROXY_WANTS_PASSWORD.format("")) from error
        if code == 451:
            raise NotPermittedError(name, "not available for legal reasons (HTTP 451)") from error
        if code in (404, 410):
            raise NotFoundError(f"{name}: no such repository, or no such revision (HTTP {code})") from error
        kind = SourceError if code == 429 or code >= 500 else ProtocolError
        raise kind(name, f"HTTP {code} when asked for the repository") from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceError(name, "offline (HF_HUB_OFFLINE is set)") from error
    except httpx2.HTTPError as error:
        raise SourceError(name, shown(str(error) or type(error).__name__)) from error
    except errors.HFValidationError as error:
        raise MalformedManifestError(repo, "repository", found=str(error), allowed="owner/name") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # huggingface_hub takes answers apart without judging them, so a broken one shows in any of these ways.
        raise ProtocolError(name, f"answers in another form than the hub ({shown(str(error))})") from error


def _not_permitted(settings: Settings, name: str, repo: str, why: str) -> NotPermittedError:
    page = f"{settings.hub_endpoint}/{repo}"
    if _token(settings) is None:
        how = "give a token of that account (HF_TOKEN, or a file that HF_TOKEN_PATH names)"
        return NotPermittedError(name, f"{why}: accept the terms on {page} and {how}")
    how = "the account of this token (HF_TOKEN, HF_TOKEN_PATH) has to accept the terms on"
    return NotPermittedError(name, f"{why}: {how} {page}, or the token is not valid")
