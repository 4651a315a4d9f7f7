"""Hook of mkdocs: pages link to files of the repository, which a site of documents alone does not have."""

from __future__ import annotations

import re
from typing import Any, Final

_OUTSIDE: Final = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:bench|examples|charts|\.github)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of such a link."""
    return _OUTSIDE.sub(r"\1", markdown)
