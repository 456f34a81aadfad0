"""What `fetch --dry-run` shows: file by file what is here, near, partial and missing, and what the rest takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.errors import ConversionError, shown
from distro.cli import console
from distro.errors import DistroError, message

if TYPE_CHECKING:
    from converters.plan import Plan
    from distro.catalog import Resolved
    from distro.config import Settings
    from distro.fetching.preview import Look, Preview

SCHEMA = "distro-fetch-plan/1"


def print_preview(settings: Settings, resolved: Resolved, found: Preview, as_type: str, *, as_json: bool) -> None:
    """As a table, or as JSON. as_type: what `--as` asks for, empty for none."""
    made, trouble = _made(settings, resolved, as_type)
    if as_json:
        console.result_json(_described(settings, resolved, found, as_type, made, trouble))
        return
    console.table(
        ["file", "size", "proof", "state", "to fetch"],
        [
            [look.file.path, console.size(look.file.size), look.proof or "none", _state(look), _to_fetch(look)]
            for look in found.looks
        ],
        right=[1, 4],
    )
    console.result(f"to fetch: {console.size(found.to_fetch)}")
    short = found.needed is not None and found.needed > found.free
    room = f"disk: {console.size(found.needed)} needed, {console.size(found.free)} free"
    console.result(f"{room}{' - not enough' if short else ''} ({shown(str(found.place))})")
    console.result(f"licence: {_license(settings, resolved)}")
    for source in found.sources:
        console.result(f"from: {shown(source)}")
    if found.to_fetch and settings.limits:
        limits = [f"{kind or 'all together'} {console.size(rate)}/s" for kind, rate in settings.limits]
        console.result(f"limits: {', '.join(limits)}")
    if made is not None:
        bits = 8 * made.size / made.n_weights
        console.result(f"as {as_type}: {console.size(made.size)}, {bits:.2f} bits per weight")
    elif as_type:
        console.result(f"as {as_type}: not known before it is here ({trouble})")


def _made(settings: Settings, resolved: Resolved, as_type: str) -> tuple[Plan | None, str]:
    """(what `--as` would make, why that cannot be told)"""
    from distro.fetching.preview import conversion

    if not as_type:
        return None, ""
    try:
        return conversion(settings, resolved.model, resolved.variant, as_type), ""
    except (DistroError, ConversionError) as error:
        return None, message(error)


def _described(
    settings: Settings, resolved: Resolved, found: Preview, as_type: str, made: Plan | None, trouble: str
) -> dict[str, object]:
    from distro.manners.consent import is_accepted, terms_of

    license_ = None
    if resolved.family is not None:
        terms = terms_of(resolved.family)
        license_ = {"id": terms.id, "url": terms.url, "redistribution": terms.redistribution,
                    "accepted": is_accepted(settings, terms)}  # fmt: skip
    files = [
        {"path": look.file.path, "size": look.file.size, "proof": look.proof, "state": look.state, "near": look.near,
         "arrived": look.arrived, "to_fetch": look.to_fetch}
        for look in found.looks
    ]  # fmt: skip
    result = {"type": as_type, "size": made.size if made else None, "unknown_because": trouble or None}
    return {
        "schema": SCHEMA,
        "model": resolved.model.name,
        "variant": resolved.variant.name,
        "path": str(found.place),
        "files": files,
        "to_fetch": found.to_fetch,
        "disk": {"needed": found.needed, "free": found.free},
        "license": license_,
        "gated": resolved.variant.gated,
        "sources": list(found.sources),
        "limits": {kind or "total": rate for kind, rate in settings.limits},
        "as": result if as_type else None,
    }


def _license(settings: Settings, resolved: Resolved) -> str:
    from distro.manners.consent import is_accepted, terms_of

    gated = "; its publisher may ask for terms to be accepted" if resolved.variant.gated else ""
    if resolved.family is None:
        return f"not known here; see the publisher's page{gated}"
    terms = terms_of(resolved.family)
    word = "" if terms.is_open else " (accepted)" if is_accepted(settings, terms) else " (has to be accepted)"
    return f"{shown(terms.id)}{word}, {shown(terms.url)}{gated}"


def _state(look: Look) -> str:
    if look.state == "near":
        return f"in {look.near}"
    if look.state == "partial":
        return f"partial, {console.size(look.arrived)}"
    return {"unproven": "here, to be proven"}.get(look.state, look.state)


def _to_fetch(look: Look) -> str:
    return "-" if look.to_fetch == 0 else console.size(look.to_fetch)
