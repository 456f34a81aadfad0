"""The rules of the house, checked over the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("distro/**/*.py"), *ROOT.glob("converters/**/*.py")])
HEAVY = {
    "pydantic",
    "torch",
    "libtorrent",
    "huggingface_hub",
    "httpx2",
    "tokenizers",
    "transformers",
    "numpy",
    "jinja2",
    "llvmlite",
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(path) for path in MODULES}


def _imports(path: Path, *, anywhere: bool) -> Iterator[str]:
    """Modules that a file imports: at the top only, or in functions too. Imports for types alone do not count."""
    tree = ast.parse(path.read_text())
    nodes: Iterator[ast.AST] | list[ast.stmt] = ast.walk(tree) if anywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: we import by full names"
            for alias in node.names:  # `from package import module` means the module
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in NAMES else node.module or ""


def test_converters_know_nothing_of_distro() -> None:
    guilty = [
        (path.name, name)
        for path in MODULES
        if _name(path).startswith("converters")
        for name in _imports(path, anywhere=True)
        if name.split(".")[0] == "distro"
    ]
    assert guilty == []


def test_nothing_imports_the_command_line() -> None:
    guilty = [
        _name(path)
        for path in MODULES
        if not _name(path).startswith("distro.cli")
        for name in _imports(path, anywhere=True)
        if name.startswith("distro.cli")
    ]
    assert guilty == []


def test_imports_have_no_circles() -> None:
    modules = {_name(path): path for path in MODULES}
    graph = {
        name: {each for each in _imports(path, anywhere=False) if each in modules and each != name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way, name])
        if name not in done:
            for each in sorted(graph[name]):
                visit(each, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_file_can_make_us_run_code() -> None:
    """No eval, exec, pickle or torch.load anywhere in what we ship."""
    guilty = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                forbidden = {"eval", "exec", "compile", "torch.load", "pickle.load", "pickle.loads", "os.system"}
                if called in forbidden or called.startswith(("pickle.", "marshal.", "shelve.")):
                    guilty.append(f"{path}:{node.lineno}: {called}")
                if any(keyword.arg == "shell" for keyword in node.keywords):
                    guilty.append(f"{path}:{node.lineno}: shell=")
        guilty += [f"{path}: import {name}" for name in _imports(path, anywhere=True) if name.split(".")[0] == "pickle"]
    assert guilty == []


def test_the_environment_is_read_in_one_place() -> None:
    allowed = {"distro.config"}
    guilty = [
        f"{path}:{node.lineno}"
        for path in MODULES
        if _name(path) not in allowed
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}
    ]
    assert guilty == []


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["run", "--help"], ["ls"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['distro', *{arguments!r}]\n"
        "from distro.cli import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('heavy:', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stderr == "heavy: []\n"
    assert "distro" in run.stdout or "llama-7b" in run.stdout
