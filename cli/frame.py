"""The command tree: which commands there are is a table, what they do is loaded when one of them is called.

`tidegate --help` therefore costs the same whether there are three commands or sixty. The global options work before
and after the name of a command; what a reader types last counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from tidegate.cli.terminal import current

if TYPE_CHECKING:
    from typer._click.core import Command, Context, Parameter
    from typer._click.formatting import HelpFormatter

GLOBAL_PANEL = "Global options"


class Line(NamedTuple):
    """One row of the command table."""

    target: str
    """`module:attribute`: a function is a command, a `typer.Typer` a group."""
    help: str
    panel: str


class LazyGroup(TyperGroup):
    """The root: knows names and one line of help, imports a command's module when it is called."""

    table: Mapping[str, Line]
    shared: Sequence[Parameter]

    def fill(self, table: Mapping[str, Line], shared: Sequence[Parameter]) -> None:
        """Take the table, and the options that every command accepts."""
        self.table, self.shared = table, shared
        for name, line in table.items():
            self.add_command(_placeholder(name, line, self.rich_markup_mode is not None))

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Replace the placeholder by the real command, just before it runs."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.load(name) if name is not None else command, rest

    def load(self, name: str) -> Command:
        """The real command."""
        line = self.table[name]
        module, _, attribute = line.target.partition(":")
        command = build(name, getattr(import_module(module), attribute))
        share(command, self.shared, rich=self.rich_markup_mode is not None)
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The plain help: one block for each panel, as the rich one has it."""
        del ctx
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, line in self.table.items():
            panels.setdefault(line.panel, []).append((name, line.help))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def _placeholder(name: str, line: Line, rich: bool) -> TyperCommand:
    text = _escaped(line.help) if rich else line.help
    return TyperCommand(name, help=text, rich_help_panel=line.panel)


def build(name: str, target: Callable[..., Any] | typer.Typer) -> Command:
    """A command from a function, a group from a Typer app."""
    if isinstance(target, typer.Typer):
        group = get_group(target)
        group.name = name
        group.no_args_is_help = not group.invoke_without_command
        return group
    app = typer.Typer(add_completion=False)
    app.command(name)(target)
    return get_command(app)


def share(command: Command, shared: Sequence[Parameter], *, rich: bool) -> None:
    """Give a command, and everything below it, the global options and the same kind of help."""
    if isinstance(command, TyperCommand | TyperGroup):
        command.rich_markup_mode = "rich" if rich else None
    command.help = inspect.cleandoc(command.help or "")
    if rich:
        # Authors write plain text; `[DIR]` is not a colour.
        command.help = _escaped(command.help)
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = _escaped(text)  # type: ignore[attr-defined]  # TyperOption and TyperArgument have it
    command.params.extend(shared)
    for child in command.commands.values() if isinstance(command, TyperGroup) else ():
        share(child, shared, rich=rich)


def record(_ctx: Context, parameter: Parameter, value: Any) -> Any:
    """Callback of the global options: keep what was really typed."""
    if value is not None and value is not False:
        setattr(current(), parameter.name, value)
    return value


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
