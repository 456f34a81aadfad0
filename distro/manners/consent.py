"""Licences that somebody has to agree to before a model is fetched, and the record that it was done, once.

Open licences (`OPEN`) ask nobody to agree to them: they are shown, that is all. Any other is agreed to once for a user:
what was shown (identifier, address, the word about redistribution, digests of the licence's text where manifests know
them) is hashed, and a file named after that digest says when. So a licence that changes is asked about again.

    <state folder>/licenses/<sha256 of the terms>.json
        {"schema": 1, "id", "url", "redistribution", "texts": [sha256, …], "digest", "accepted": "2026-01-31T12:00:00Z"}
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from converters.errors import shown
from distro.config import Settings
from distro.errors import StorageError, UsageError
from distro.manifest import Family
from distro.manners import remembered
from distro.receipt import now

# By SPDX identifier: anyone may use what they cover, for anything, without agreeing to it. What they ask of those who
# pass it on (a notice, a name) is for `seed` and `export` to say. Copyleft, "responsible use" and non-commercial
# licences and those of publishers (LicenseRef-…) are not among them: people should have read those.
OPEN = frozenset(
    name.casefold()
    for name in (
        "0BSD", "AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "CC-BY-3.0",
        "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ECL-2.0", "ISC", "MIT", "MIT-0",
        "MulanPSL-2.0", "NCSA", "ODC-By-1.0", "OpenMDW-1.0", "OpenMDW-1.1", "PDDL-1.0", "Unlicense", "UPL-1.0", "WTFPL",
        "Zlib",
    )
)  # fmt: skip

_WORDS = {
    "allowed": "may be passed on",
    "conditions": "may be passed on under its conditions",
    "forbidden": "may not be passed on",
}

_TEXT = re.compile(r"(.*/)?(licen[cs]e|use[_-]policy|acceptable[_-]use[_-]policy)([._-][^/]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """What is shown and agreed to. texts: SHA-256 of the licence's text, of each that the manifests know."""

    id: str
    url: str
    redistribution: str
    texts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def is_open(self) -> bool:
        """Whether nobody needs to agree to it."""
        return self.id.casefold() in OPEN and self.redistribution != "forbidden"


def terms_of(family: Family) -> Terms:
    texts = {
        file.sha256
        for model in family.models
        for variant in model.variants
        for file in variant.files
        if file.sha256 and _TEXT.fullmatch(file.path)
    }
    return Terms(family.license.id, family.license.url, family.license.redistribution, tuple(sorted(texts)))


def is_accepted(settings: Settings, terms: Terms) -> bool:
    """Whether nobody has to be asked: the licence is an open one, or this user has agreed to these very terms."""
    return terms.is_open or remembered.recall(settings.state_folder, _name(terms)).get("digest") == terms.digest


def accept(settings: Settings, terms: Terms) -> None:
    """Record that the user agreed. Raises StorageError where that cannot be kept."""
    record = {"schema": 1, **asdict(terms), "digest": terms.digest, "accepted": now()}
    if settings.state_folder is not None and not remembered.remember(settings.state_folder, _name(terms), record):
        raise StorageError(f"{settings.state_folder / _name(terms)}: cannot be written, to record a licence")


def unanswered(settings: Settings, family: Family | None, name: str, accepted_id: str) -> Terms | None:
    """The terms that somebody has to agree to before a model is fetched.

    None where there are none that need it, or they were agreed to before, or are now, by their identifier.

    family: of the model, None where nobody wrote one down. name: of the model, for messages. accepted_id: what the user
    said to accept, empty for nothing. Raises UsageError for the identifier of other terms.
    """
    if family is None:
        if accepted_id:
            raise UsageError(f"--accept-license: nobody wrote down the licence of {shown(name)}")
        return None
    terms = terms_of(family)
    if accepted_id and accepted_id.casefold() != terms.id.casefold():
        raise UsageError(f"--accept-license: found {shown(accepted_id)}, the licence of {name} is {shown(terms.id)}")
    if is_accepted(settings, terms):
        return None
    if accepted_id:
        accept(settings, terms)
        return None
    return terms


def described(terms: Terms) -> str:
    """`LicenseRef-X, which may not be passed on: https://…`."""
    return f"{shown(terms.id)}, which {_WORDS[terms.redistribution]}: {shown(terms.url)}"


def _name(terms: Terms) -> str:
    return f"licenses/{terms.digest}.json"
