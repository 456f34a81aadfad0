"""Where a result comes from, carried inside the result: who made it, by which recipe, out of which bytes.

    provenance.made_by   program and version, such as "distro 0.1.0"
    provenance.recipe    the recipe's canonical JSON (`converters.recipe`)
    provenance.inputs    a JSON object: SHA-256 of each file that was read, by name, keys in order

GGUF files hold the three as keys of text, safetensors files in `__metadata__`. No clock and no host is in it, so the
same inputs and recipe give the same bytes on any machine, any day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

MADE_BY = "provenance.made_by"
RECIPE = "provenance.recipe"
INPUTS = "provenance.inputs"
KEYS = (MADE_BY, RECIPE, INPUTS)

# A digest has the same length whatever it is of, so a header can be laid out before it is known.
UNKNOWN = "0" * 64
_LONGEST_MAKER = 200


@dataclass(frozen=True)
class Provenance:
    """made_by: program and version. recipe: canonical JSON. inputs: SHA-256 of each input by its name."""

    made_by: str
    recipe: str
    inputs: Mapping[str, str]

    def keys(self) -> dict[str, str]:
        """The three texts, by key."""
        inputs = json.dumps(dict(sorted(self.inputs.items())), ensure_ascii=False, separators=(",", ":"))
        # Names of files may hold bytes that are no text: Python has them as surrogates, JSON spells those out.
        inputs = inputs.encode("utf-8", "backslashreplace").decode()
        return {MADE_BY: self.made_by, RECIPE: self.recipe, INPUTS: inputs}

    @staticmethod
    def from_keys(keys: Mapping[str, object]) -> Provenance | None:
        """What a header says of its making; None where it does not, or not in our words. Nothing in it is believed."""
        made_by, recipe, inputs = (keys.get(key) for key in KEYS)
        if not (isinstance(made_by, str) and isinstance(recipe, str) and isinstance(inputs, str)):
            return None
        if not made_by.isprintable() or len(made_by) > _LONGEST_MAKER:
            return None
        try:
            found = json.loads(inputs)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
            return None
        return Provenance(made_by, recipe, found)
