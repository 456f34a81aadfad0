"""The command `distro`: one module a command, each of which parses, calls one function and prints.

Modules here import nothing heavy at the top, so that `--help` is instant.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from distro import config
from distro.cli import console
from distro.cli.quick import QuickCommand, QuickGroup
from distro.cli.stopping import Stopping
from distro.errors import NotBuiltError, exit_code, message, name_of

app = typer.Typer(
    name="distro",
    cls=QuickGroup,
    help="Fetch open model weights, prove them, convert and quantize them, run them, share them.",
    add_completion=False,
    rich_markup_mode=None,  # rich costs more start-up time than everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Models live in the folder that DISTRO_HOME names, or in the platform's data folder.",
)

_INTERRUPTED = "interrupted; run the same command again to go on"

# In the order of a model's way through the house. Each is a function of its own name in a module of its own name, but
# for groups.
_COMMANDS = (
    "ls", "show", "inspect", "fetch", "verify", "imatrix", "convert", "run", "compare", "torrent", "seed", "gguf",
    "manifest", "rm", "gc",
)  # fmt: skip
_GROUPS = ("gguf", "manifest")
_OLD_HABITS = {"list": "ls", "pull": "fetch", "download": "fetch"}
# Commands of the plan that are still to come: they say so instead of being unknown.
_PLANNED = ("serve", "export", "doctor")


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


def _register(arguments: Sequence[str]) -> None:
    """Add commands to the app: the one that is asked for, or all of them where none is."""
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    wanted = _OLD_HABITS.get(asked, asked)
    for name in (wanted,) if wanted in _COMMANDS else _COMMANDS:
        module = importlib.import_module(f"distro.cli.{name}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(asked if asked in _OLD_HABITS else name, cls=QuickCommand)(getattr(module, name))
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
    arguments = sys.argv[1:]
    as_json = "--json" in arguments
    console.prepare()
    stopping = Stopping(lambda code: _say(code, "interrupted", _INTERRUPTED, as_json=as_json))
    _register(arguments)
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
    except (KeyboardInterrupt, Exception) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        is_interrupted = stopping.has_begun or isinstance(error, (KeyboardInterrupt, typer.Abort))
        code = stopping.code if is_interrupted else _explained(error, as_json=as_json)
    if stopping.has_begun or code == stopping.code:  # typer gives that code by itself
        stopping.leave()
    if not arguments:
        code = 2  # help is what is needed, and yet nothing was asked for
    sys.exit(code if isinstance(code, int) else 0)


def _explained(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong; the exit code for it."""
    if isinstance(error, typer.TyperException):  # a wrong option, a missing argument
        code, name, text = error.exit_code, "usage", f"{error.format_message()} (`distro --help` shows how)"
    else:
        code, name, text = exit_code(error), name_of(error), message(error)
    if isinstance(error, OSError):
        console.forget_output()  # it may be what failed
    if code == 1:
        name, text = "fault", f"{type(error).__name__}: {error} (a fault of ours; --debug shows where)"
    _say(code, name, text, as_json=as_json)
    return code


def _say(code: int, name: str, text: str, *, as_json: bool) -> None:
    """The one line of a failure for people, or an event for a program."""
    if as_json:
        from distro.cli.events import SCHEMA

        console.event("error", schema=SCHEMA, code=name, exit_code=code, message=text)
    else:
        console.error(text)
