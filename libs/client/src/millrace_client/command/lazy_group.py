"""Commands that are loaded when they are called: loading all of them would slow down each start."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """What a group's help says of a command, and what loads it: an app, or a function to make one of."""

    summary: str
    load: Callable[[], typer.Typer | Callable[..., Any]]
    panel: str = "Commands"


def lazy_group(commands: dict[str, LazyCommand]) -> type[TyperGroup]:
    """Return a kind of group that has these commands, besides those that are registered with it."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return [*super().list_commands(ctx), *commands]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            known = commands.get(cmd_name)
            if known is None:
                return super().get_command(ctx, cmd_name)
            return TyperCommand(cmd_name, help=known.summary, rich_help_panel=known.panel)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            known = commands.get(args[0])
            if known is None:
                return super().resolve_command(ctx, args)
            return args[0], _load(known), args[1:]

    return LazyGroup


def _load(known: LazyCommand) -> Any:
    loaded = known.load()
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    app = typer.Typer(add_completion=False)
    app.command()(loaded)
    return typer.main.get_command(app)
