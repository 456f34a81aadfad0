"""Sizes and rates as people type them."""

from __future__ import annotations

import pytest

from distro.cli.quantity import parse_bytes
from distro.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8_000_000_000), ("8gb", 8_000_000_000), ("8G", 8_000_000_000), ("7.5 GB", 7_500_000_000),
        ("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("64k", 64_000), ("1234", 1234), ("2TB", 2_000_000_000_000),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text, "--fit") == expected


@pytest.mark.parametrize("text", ["", "GB", "8 bananas", "-1GB", "8GB/s", "1e9", "８GB", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--fit: found .*, allowed a size such as 8GB"):
        parse_bytes(text, "--fit")
