"""Commands as a user runs them, in this process: arguments in, exit code and both streams out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from distro import cli, errors
from distro.cli import inspect, ls, manifest, show, verify


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    error: str  # the message of the error that ended it, or what went to stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(base: Path, *arguments: str, hub: str | None = None) -> Outcome:
    """Run `distro` with a home and a configuration folder of its own below `base`; offline without a hub's address."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(cli._options)
    for name, function in (("ls", ls.ls), ("show", show.show), ("inspect", inspect.inspect), ("verify", verify.verify)):
        app.command(name)(function)
    app.add_typer(manifest.app, name="manifest")
    environment = {"DISTRO_HOME": str(base / "home"), "DISTRO_CONFIG": str(base / "config")}
    environment |= {"DISTRO_STATE": str(base / "state")}
    environment |= {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
    result = CliRunner().invoke(app, ["--quiet", *arguments], env=environment)
    if result.exception is None or isinstance(result.exception, SystemExit):
        return Outcome(result.exit_code, result.stdout, result.stderr)
    return Outcome(errors.exit_code(result.exception), result.stdout, str(result.exception))
