"""`distro gguf`: keys of a GGUF file changed, files split and merged; the weights stay byte for byte what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console
from distro.errors import UsageError

if TYPE_CHECKING:
    from distro.edit import Edited

app = typer.Typer(name="gguf", help="Change keys of GGUF files, split and merge them.")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file.")]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write a new file, leave this one as it is.")]
_Force = Annotated[bool, typer.Option("--force", help="Also keys that the weights depend on.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("set")
def set_keys(
    context: typer.Context,
    file: _File,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="Numbers, true, false, arrays as in JSON.")],
    type_name: Annotated[
        str | None,
        typer.Option("--type", help="u8 … i64, f32, f64, bool, string, and [] behind for arrays (default: as it is)."),
    ] = None,
    output: _Output = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Set keys. Where the header has room for it this is done in place, else the file is written anew.

    File systems that can (btrfs, XFS) share the weights with the old file.
    """
    changes = dict(pair.partition("=")[::2] for pair in pairs)
    if wrong := next((pair for pair in pairs if "=" not in pair), None):
        raise UsageError(f"{wrong}: found no =, allowed KEY=VALUE")
    if len(changes) < len(pairs):
        raise UsageError("a key is given twice")
    _edit(context, file, dict(changes), type_name, output, force=force, as_json=as_json)


@app.command("unset")
def unset_keys(
    context: typer.Context,
    file: _File,
    keys: Annotated[list[str], typer.Argument(metavar="KEY…")],
    output: _Output = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Remove keys; done as `set` does it."""
    _edit(context, file, dict.fromkeys(keys), None, output, force=force, as_json=as_json)


@app.command("finish")
def finish_edit(file: _File) -> None:
    """Complete an edit that was cut short, by a power loss or a full disk; any other edit does so first too."""
    from distro.edit import finish

    was_left = finish(file)
    console.say("completed" if was_left else "nothing was left to do")
    console.result(str(file))


@app.command("split")
def split_file(
    context: typer.Context,
    file: _File,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder for the shards.")],
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Tensors of so many bytes in each: 2GB.")] = "",
    tensors: Annotated[
        int | None, typer.Option("--tensors", metavar="N", min=1, help="So many tensors in each.")
    ] = None,
    no_tensor_first: Annotated[
        bool, typer.Option("--no-tensor-first", help="The first shard has the keys and no tensors.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Split a model into shards, NAME-00001-of-00005.gguf, as llama-gguf-split does."""
    from distro import regroup
    from distro.cli.quantity import parse_bytes
    from distro.store import Store

    if bool(size) == (tensors is not None):
        raise UsageError("say how to split: --size 2GB or --tensors 128")
    session = context.obj
    max_bytes = parse_bytes(size, "--size") if size else None
    made = regroup.split(
        Store(session.settings.home), file, output, max_bytes=max_bytes, max_tensors=tensors,
        tensors_from_second=no_tensor_first, progress=session.progress,
    )  # fmt: skip
    if as_json:
        console.result_json({"files": [{"path": str(path), "size": path.stat().st_size} for path in made]})
        return
    for path in made:
        console.result(str(path))


@app.command("merge")
def merge_files(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FIRST", help="Any shard of the model; the others lie beside it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new file.")],
    keep_split_keys: Annotated[
        bool, typer.Option("--keep-split-keys", help="Leave split.* in, as llama-gguf-split does.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Join the shards of a model into one file: the one that was split, byte for byte."""
    from distro import regroup
    from distro.store import Store

    session = context.obj
    store = Store(session.settings.home)
    made = regroup.merge(store, file, output, keep_split_keys=keep_split_keys, progress=session.progress)
    if as_json:
        console.result_json({"path": str(made), "size": made.stat().st_size})
        return
    console.result(str(made))


def _edit(
    context: typer.Context,
    file: Path,
    changes: dict[str, str | None],
    type_name: str | None,
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from distro.edit import edit
    from distro.store import Store

    session = context.obj
    store = Store(session.settings.home)
    edited = edit(store, file, changes, type_name, output=output, force=force, progress=session.progress)
    if as_json:
        console.result_json({"path": str(edited.path), "in_place": edited.in_place, "written": edited.written})
        return
    console.say(_told(edited))
    console.result(str(edited.path))


def _told(edited: Edited) -> str:
    return f"{console.size(edited.written)} written{', in place' if edited.in_place else ''}"
