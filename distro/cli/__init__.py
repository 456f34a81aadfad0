"""The command `distro`: one module a command, each of which parses, calls one function and prints.

Modules here import nothing heavy at the top, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from distro import config
from distro.cli import console
from distro.errors import NotBuiltError, exit_code

app = typer.Typer(
    name="distro",
    help="Fetch open model weights, prove them, convert and quantize them, run them, share them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich costs more start-up time than everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Models live in the folder that DISTRO_HOME names, or in the platform's data folder.",
)

# Commands of the plan that are still to come: they say so instead of being unknown.
_PLANNED = ("inspect", "serve", "export", "doctor", "imatrix")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.result(f"distro {version('weights-distro')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network (HF_HUB_OFFLINE).")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no talk; results and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Flags alone here: a value of any other kind makes typer load pydantic, which takes longer than the rest of us.
    context.obj = Session(config.load(offline=offline or None), quiet=quiet)


class Session:
    """What every command needs: the settings, and where to show progress."""

    def __init__(self, settings: config.Settings, *, quiet: bool) -> None:
        self.settings, self.quiet = settings, quiet
        self.progress = console.progress(quiet=quiet)


def _register() -> None:
    """Add every command to the app, in the order of a model's way through the house."""
    from distro.cli import compare, convert, fetch, gc, ls, manifest, rm, run, seed, show, torrent, verify

    app.command("ls")(ls.ls)
    app.command("list", hidden=True)(ls.ls)
    app.command("show")(show.show)
    app.command("fetch")(fetch.fetch)
    app.command("pull", hidden=True)(fetch.fetch)
    app.command("download", hidden=True)(fetch.fetch)
    app.command("verify")(verify.verify)
    app.command("convert")(convert.convert)
    app.command("run")(run.run)
    app.command("compare")(compare.compare)
    app.command("torrent")(torrent.torrent)
    app.command("seed")(seed.seed)
    app.add_typer(manifest.app, name="manifest")
    app.command("rm")(rm.rm)
    app.command("gc")(gc.gc)
    for name in _PLANNED:
        app.command(name, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
            _not_built(name)
        )


def _not_built(name: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        raise NotBuiltError(f"distro {name}")

    return command


def main() -> None:
    """The entry point: runs the app, turns every error into one line and its exit code."""
    _register()
    debug = "--debug" in sys.argv
    try:
        app()
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            traceback.print_exc()
        code = exit_code(error)
        if isinstance(error, KeyboardInterrupt):
            console.error("interrupted; run the same command again to go on")
        elif code == 1 and not debug:
            console.error(f"{type(error).__name__}: {error} (a fault of ours; --debug shows where)")
        else:
            console.error(str(error))
        sys.stdout.flush()
        os._exit(code) if code == 130 else sys.exit(code)
