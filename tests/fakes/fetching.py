"""`distro fetch` as a user runs it: a real process with a home, a configuration and a memory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from tests.fakes.hub import FakeHub, sha256

COMMAND = [sys.executable, "-c", "from distro.cli import main; main()"]


@dataclass(frozen=True)
class Distro:
    """enter: what its command begins with, where it is to run in another place."""

    base: Path
    hub: FakeHub
    enter: tuple[str, ...] = ()

    def environment(self, **more: str) -> dict[str, str]:
        strange = ("HF_", "DISTRO_", "SSL_CERT_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(strange) and not name.lower().endswith("_proxy")
        }
        ours = {"DISTRO_HOME": str(self.base / "home"), "DISTRO_CONFIG": str(self.base / "config"),
                "DISTRO_STATE": str(self.base / "state"), "HF_ENDPOINT": self.hub.url,
                "HF_HOME": str(self.base / "hf")}  # fmt: skip
        return kept | ours | more

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, *COMMAND, *arguments], capture_output=True, text=True, timeout=60,
            env=self.environment(**more), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.enter, *COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment(**more), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def publish(self, files: dict[str, bytes], licence: License, *, gated: bool = False) -> None:
        """A model `tiny` of the user's own manifest, on the hub as `owner/tiny`; no place has its small variant."""
        repo = self.hub.add("owner/tiny", dict(files))
        repo.gated = gated
        listed = tuple(File(path, len(data), sha256=sha256(data)) for path, data in files.items())
        variants = (
            Variant("hf", "safetensors", listed, (f"hf:owner/tiny@{repo.commit}",), gated=gated),
            Variant("q4_0", "gguf", (File("tiny.gguf", 1000, sha256="ab" * 32),)),
        )
        family = Family("tiny", "us", licence, (Model("tiny", 70, "llama", "hf", variants),))
        (self.base / "config" / "manifests").mkdir(parents=True, exist_ok=True)
        (self.base / "config" / "manifests" / "tiny.toml").write_text(dump(family))

    def files(self) -> list[str]:
        """What there is below the base but for its configuration and its cache, by path."""
        return sorted(
            str(path.relative_to(self.base)) for path in self.base.rglob("*")
            if path.is_file() and path.relative_to(self.base).parts[0] not in ("config", "hf")
        )  # fmt: skip


def events(stderr: str) -> list[dict[str, Any]]:
    """Every line is one event."""
    return [json.loads(line) for line in stderr.splitlines()]
