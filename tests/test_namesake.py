"""We share a folder with PyPI's `distro` (names of Linux systems): both work, whichever was installed last."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMESAKE = "distro==1.9.0"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels: ours built from this tree, theirs from the package index."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, capture_output=True)
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, NAMESAKE], check=True, capture_output=True)
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.mark.parametrize("order", [("weights_distro", "distro"), ("distro", "weights_distro")])
def test_both_work_whichever_came_last(order: tuple[str, str], wheels: dict[str, Path], tmp_path: Path) -> None:
    for name in order:
        with zipfile.ZipFile(wheels[name]) as wheel:
            wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import distro, distro.manifest, distro.catalog, converters.mix\n"
        f"assert distro.__file__.startswith({str(tmp_path)!r})\n"
        "assert distro.id() and distro.name()\n"
        "assert distro.manifest.fold('Q4_K_M') == 'q4-k-m'\n"
        "assert 'smollm2-135m-instruct' in {m.name for family in distro.catalog.shipped() for m in family.models}\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)


def test_a_name_that_nobody_has_is_an_attribute_error() -> None:
    import distro

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = distro.no_such_name  # type: ignore[attr-defined]


def test_the_wheel_holds_our_packages_and_manifests_and_nothing_else(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["weights_distro"]) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"converters", "distro", "weights_distro-0.1.0.dist-info"}
    assert "distro/manifests/smollm2.toml" in names
    assert "distro/distro.py" not in names
    assert "distro/__main__.py" not in names
