"""checklist.chk and tokenizer_checklist.chk: the MD5 of each file of a release, in lines of md5sum.

    6efc8dab194ab59e49cd24be5574d85e  consolidated.00.pth

Meta's download.sh (meta-llama/llama) checks them with `md5sum -c`. MD5 can be forged; it tells accidents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from converters.errors import MalformedError
from converters.folder import inside, is_file_name
from converters.input_file import InputFile

NAMES = ("checklist.chk", "tokenizer_checklist.chk")
_LARGEST = 1 << 20  # bytes; Meta's longest has nine lines
_LINE = re.compile(r"([0-9a-fA-F]{32}) [ *](.+)")


def find(folder: Path) -> tuple[Path, ...]:
    """The checklists of a folder. Raises UnsafeError for a link that leaves it."""
    return tuple(path for path in (inside(folder, name) for name in NAMES) if path.exists())


def read(path: Path) -> Mapping[str, str]:
    """MD5 in lower-case hex by file name; the files lie beside the checklist. Raises MalformedError naming the line."""
    with InputFile(path) as file:
        if file.size > _LARGEST:
            raise MalformedError(path, "file", found=f"{file.size} bytes", allowed=f"at most {_LARGEST}")
        data = file.read(0, file.size, "file")
    digests: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None or not is_file_name(match[2]):
            allowed = "an MD5 in hex, two spaces, the plain name of a file"
            raise MalformedError(path, "line", offset=number, found=line, allowed=allowed)
        if match[2] in digests:
            raise MalformedError(path, "line", offset=number, found=f"{match[2]} again", allowed="each file once")
        digests[match[2]] = match[1].lower()
    return digests
