"""Tables in which nothing is ever cut, and cells that several of them share; drawn by rich, which is loaded here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_COMMIT = 9
"""Characters of a commit that git itself shows for a repository of some size."""

DIRTY_NOTE = "+ made with uncommitted changes, which are kept with it"


def table(*columns: str, title: str = "") -> Table:
    """A table without boxes; a narrow terminal wraps the last column only, since the others hold ids to copy."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim", title=title or None, title_justify="left")
    for name in columns:
        made.add_column(name, no_wrap=name != columns[-1], overflow="fold")
    return made


def commit(git_commit: str, *, dirty: bool) -> str:
    """The short commit, `+` behind it where the tree was dirty, `-` where there was none."""
    return f"{git_commit[:_COMMIT] or '-'}{'+' if dirty else ''}"
