"""A rich console that turns into plain text where there is no terminal, and a listing for any document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from rich.console import Console
from rich.table import Column, Table


class PlainConsole(Console):
    """Prints tables without boxes and never wraps a line, so that grep and awk see what was meant."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`."""
        for item in objects:
            if isinstance(item, Table):
                item.box, item.padding, item.show_edge = None, (0, 2, 0, 0), False
        only_text = all(isinstance(item, str) for item in objects)
        super().print(*objects, **({"soft_wrap": True} if only_text else {}) | options)


def console(stream: IO[str], width_elsewhere: int) -> Console:
    """A console on `stream`; NO_COLOR and TERM=dumb are honoured by rich."""
    if stream.isatty():
        return Console(file=stream, highlight=False)
    return PlainConsole(file=stream, highlight=False, force_terminal=False, color_system=None, width=width_elsewhere)


def listing(target: Console, document: Mapping[str, Any], indent: int = 0) -> None:
    """Every key of a document on its own line; lists of mappings become tables."""
    for key, value in document.items():
        if indent == 0 and key == "kind":
            continue
        lead = " " * indent + str(key)
        if isinstance(value, Mapping) and value:
            target.print(f"{lead}:", markup=False)
            listing(target, value, indent + 2)
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            target.print(f"{lead}:", markup=False)
            target.print(_table(value))
        else:
            # Not wrapped by us: a terminal's own wrapping does not end up in what is copied.
            target.print(f"{lead}: {text(value)}", markup=False, soft_wrap=True)


def text(value: Any) -> str:
    """One value in a line or a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value)) or "-"
    return str(value)


def _table(rows: list[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> Table:
    from rich.markup import escape

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*(escape(text(row.get(column))) for column in columns))
    return table
