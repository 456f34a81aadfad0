"""The licence of what is fetched: shown, and agreed to once where it is none that everybody may use anyway."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.cli import console
from distro.errors import NotPermittedError

if TYPE_CHECKING:
    from distro.catalog import Resolved
    from distro.cli import Session


def agree(session: Session, resolved: Resolved, accepted_id: str) -> None:
    """See to it that the user agreed to the licence. accepted_id: the licence named by `--accept-license`.

    Raises NotPermittedError with the command that agrees where nobody is there to be asked or the answer is no,
    UsageError for another licence than the model's.
    """
    from distro.manners.consent import accept, described, unanswered

    terms = unanswered(session.settings, resolved.family, str(resolved), accepted_id)
    if terms is None:
        return
    text = f"{resolved} is under {described(terms)}"
    if not console.can_ask():
        raise _not_agreed(resolved, terms.id, f"{text}; nobody agreed to it yet")
    console.say(text)
    if not console.ask("Do you accept this licence?"):
        raise _not_agreed(resolved, terms.id, f"its licence, {shown(terms.id)}, was not accepted")
    accept(session.settings, terms)


def _not_agreed(resolved: Resolved, license_id: str, why: str) -> NotPermittedError:
    command = shlex.join(["distro", *sys.argv[1:], "--accept-license", license_id])
    return NotPermittedError(str(resolved), f"{why.removeprefix(f'{resolved} ')}; `{command}` accepts it")
