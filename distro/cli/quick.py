"""typer's commands, without what makes them slow to start.

typer loads pydantic for every option that is no plain flag with a value, and its own `--help` has none: a tenth of a
second that light commands do not have.
"""

from __future__ import annotations

import typer.core


class QuickCommand(typer.core.TyperCommand):
    """A command whose `--help` is a plain flag."""

    def get_help_option(self, ctx: typer.Context) -> typer.core.TyperOption | None:  # type: ignore[override]
        return _plain(super().get_help_option(ctx))


class QuickGroup(typer.core.TyperGroup):
    """A group whose `--help` is a plain flag."""

    def get_help_option(self, ctx: typer.Context) -> typer.core.TyperOption | None:  # type: ignore[override]
        return _plain(super().get_help_option(ctx))


def _plain(option: typer.core.TyperOption | None) -> typer.core.TyperOption | None:
    if option is not None and option.default is None:
        option.default = False
    return option
