"""Files of the user's own: which of them are looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distro.disk import files_below


def test_regular_files_by_name_and_links_to_files_alone(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c/deep/er/x", ".hidden", ".git/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "b")
    (tmp_path / "e").symlink_to("a")
    (tmp_path / "f").symlink_to("nowhere")
    os.mkfifo(tmp_path / "g")
    found = [str(path.relative_to(tmp_path)) for path in files_below(tmp_path)]
    assert found == ["a", "b/1", "b/2", "c/deep/er/x", "e"]
    assert list(files_below(tmp_path / "a")) == [tmp_path / "a"]


def test_folders_deeper_than_python_calls(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(1200):
        folder = folder / "a"
        folder.mkdir()
    (folder / "x").touch()
    assert list(files_below(tmp_path)) == [folder / "x"]
    (folder / "x").unlink()
    while folder != tmp_path:  # which pytest, that deletes old folders by recursion, could not
        folder.rmdir()
        folder = folder.parent


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_umask_takes_nothing_from_us(tmp_path: Path, umask: int) -> None:
    """In a process of its own, which asks for the umask once."""
    program = (
        "import os, sys; from pathlib import Path; from distro import disk; from distro.journal import Journal\n"
        "base = Path(sys.argv[1]); os.close(disk.open_folder(base / 'a/b', base))\n"
        "disk.make_folder(base / 'c/d', private=base / 'c'); Journal(base / 'j', 'x').close()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, umask=umask)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "c", "c/d", "j")}
    shared = 0o700 | 0o777 & ~umask
    assert modes == {"a": shared, "a/b": shared, "c": 0o700, "c/d": 0o700, "j": 0o600}
