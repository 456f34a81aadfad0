"""The licence of what is fetched: shown, and agreed to once where it is none that everybody may use anyway."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.cli import console
from distro.errors import NotPermittedError, UsageError

if TYPE_CHECKING:
    from distro.catalog import Resolved
    from distro.cli import Session

_WORDS = {
    "allowed": "may be passed on",
    "conditions": "may be passed on under its conditions",
    "forbidden": "may not be passed on",
}


def agree(session: Session, resolved: Resolved, accepted_id: str) -> None:
    """See to it that the user agreed to the licence. accepted_id: the licence named by `--accept-license`.

    Raises NotPermittedError with the command that agrees where nobody is there to be asked or the answer is no,
    UsageError for another licence than the model's.
    """
    from distro.consent import accept, is_accepted, terms_of

    family = resolved.family
    if family is None:
        if accepted_id:
            raise UsageError(f"--accept-license: nobody wrote down the licence of {shown(str(resolved))}")
        return
    terms = terms_of(family)
    if accepted_id and accepted_id.casefold() != terms.id.casefold():
        raise UsageError(
            f"--accept-license: found {shown(accepted_id)}, the licence of {resolved} is {shown(terms.id)}"
        )
    if is_accepted(session.settings, terms):
        return
    if not accepted_id:
        text = f"{resolved} is under {shown(terms.id)}, which {_WORDS[terms.redistribution]}: {shown(terms.url)}"
        if not console.can_ask():
            raise _not_agreed(resolved, terms.id, f"{text}; nobody agreed to it yet")
        console.say(text)
        if not console.ask("Do you accept this licence?"):
            raise _not_agreed(resolved, terms.id, f"its licence, {shown(terms.id)}, was not accepted")
    accept(session.settings, terms)


def _not_agreed(resolved: Resolved, license_id: str, why: str) -> NotPermittedError:
    command = shlex.join(["distro", *sys.argv[1:], "--accept-license", license_id])
    return NotPermittedError(str(resolved), f"{why.removeprefix(f'{resolved} ')}; `{command}` accepts it")
