"""Checklists: md5sum's lines, and lines that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters import checklist
from converters.errors import MalformedError, UnsafeError

MD5 = b"0123456789abcdef0123456789abcdef"


def test_lines_of_md5sum(tmp_path: Path) -> None:
    path = tmp_path / "checklist.chk"
    path.write_bytes(
        MD5 + b"  consolidated.00.pth\n" + MD5[::-1] + b" *params.json\n\r\n" + MD5.upper() + b"  a.model\r\n"
    )
    assert checklist.find(tmp_path) == (path,)
    assert checklist.read(path) == {
        "consolidated.00.pth": "0123456789abcdef0123456789abcdef",
        "params.json": "fedcba9876543210fedcba9876543210",
        "a.model": "0123456789abcdef0123456789abcdef",
    }


def test_a_list_of_nothing_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "checklist.chk").write_bytes(b"")
    assert checklist.read(tmp_path / "checklist.chk") == {}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (MD5 + b"  ../x", "line at 1: found 0123456789abcdef0123456789abcdef  ../x, allowed an MD5 in hex, two spaces"),
        (MD5 + b"  /etc/passwd", "the plain name of a file"),
        (MD5 + b"  a\\b", "the plain name of a file"),
        (MD5 + b"  ..", "the plain name of a file"),
        (MD5 + b"  .hidden", "the plain name of a file"),
        (MD5 + b"  \x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        (MD5 + b"  \xff", "the plain name of a file"),
        (MD5 + b" x", "two spaces"),
        (MD5, "two spaces"),
        (MD5[1:] + b"  params.json", "an MD5 in hex"),
        (b"g" + MD5[1:] + b"  params.json", "an MD5 in hex"),
        (b"  params.json", "an MD5 in hex"),
        (MD5 + b"  a\n" + MD5 + b"  a", "line at 2: found a again, allowed each file once"),
        (bytes(1 << 20) + b"x", "file: found 1048577 bytes, allowed at most 1048576"),
    ],
)
def test_what_is_no_list_of_names(tmp_path: Path, line: bytes, text: str) -> None:
    path = tmp_path / "checklist.chk"
    path.write_bytes(line + b"\n" if len(line) < 1 << 20 else line)
    with pytest.raises(MalformedError) as caught:
        checklist.read(path)
    assert text in str(caught.value)


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "checklist.chk").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeError, match=r"checklist\.chk: file: found a link to /etc/hostname"):
        checklist.find(tmp_path / "m")
